import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from anywidth import errors
from live_views import mlp, packed, same
from narrow_views import IMAGE, assert_is_compact, compact
from oracles import rand


def test_loading_into_a_packed_view_loads_into_the_wide_network(ready):
    view = ready.at("small")
    with torch.no_grad():
        view(rand(*IMAGE))
    state = {n: torch.full_like(t, 0.25) for n, t in view.state_dict().items() if t.is_floating_point()}
    view.load_state_dict(state, strict=False)
    assert (ready.model.stem.weight[:3] == 0.25).all()
    assert (ready.model.stem.weight[3:] != 0.25).all()
    with torch.no_grad():
        assert_is_compact(ready, view)
        assert (compact(ready).head.weight == 0.25).all()


def test_masks_and_parametrizations_of_views_are_refused():
    net = mlp().eval()
    with pytest.raises(errors.ViewError, match=r"cannot register"):
        prune.l1_unstructured(net.at(0.5)[0], "weight", 0.5)
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor"):
        parametrize.register_parametrization(net.at(0.5)[3], "weight", nn.Identity())
    with pytest.raises(errors.ViewError):
        net.at(0.5)[0].register_parameter("extra", nn.Parameter(torch.ones(1)))
    with pytest.raises(errors.ViewError):
        del net.at(0.5)[0].weight
    same(net)
    assert list(net.model.state_dict()) == [f"{i}.{t}" for i in (0, 3, 5) for t in ("weight", "bias")]


def test_writes_by_way_of_parameters_and_state():
    net = packed().eval()
    view = net.at(0.5)
    with torch.no_grad():
        for p in view.parameters():
            p.fill_(0.25)
    assert (net.extract(0.5).qkv.weight == 0.25).all()
    assert (net.model.qkv.weight[4:8] != 0.25).all()
    state = {n: torch.full_like(t, 0.75) for n, t in view.state_dict().items()}
    for assign in (False, True):
        state = {n: t + 1 for n, t in state.items()}
        view.load_state_dict(state, assign=assign)
        for n, t in net.extract(0.5).state_dict().items():
            assert torch.equal(t, state[n]), (n, assign)
    view.o.bias = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert (net.model.o.bias == 1).all()
    with pytest.raises(
        errors.ViewError, match=r"'o.weight' is \(2, 4\) at this width; \(2, 8\) cannot be written"
    ):
        view.o.weight = nn.Parameter(torch.ones(2, 8, dtype=torch.float64))
    same(net)
