import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from anywidth import Elastic
from live_views import X, mlp, packed, same
from narrow_views import compact, elastic, width
from oracles import randomized


def test_state_dict_of_a_view_is_current_after_an_update():
    net = elastic()
    view = net.at(width(net))
    with torch.no_grad():
        for p in net.model.parameters():
            p.mul_(2)
    expected = compact(net).state_dict()
    got = view.state_dict()
    for n, _ in view.named_parameters():
        assert torch.equal(got[n], expected[n]), n


@pytest.mark.parametrize("w", [0.5, 1.0])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_over_a_view_is_refused(optimiser, w):
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optimiser(mlp().at(w).parameters(), lr=0.1)


WRITES = {
    "mul_": lambda t: t.mul_(2),
    "data": lambda t: t.data.fill_(0.5),
    "detach": lambda t: t.detach().copy_(torch.ones_like(t)),
    "row": lambda t: t[1].zero_(),
    "item": lambda t: t.__setitem__((0, 0), 7.0),
    "out": lambda t: torch.mul(t.detach(), 3, out=t),
    "init": lambda t: nn.init.constant_(t, 0.25),
    "foreach": lambda t: torch._foreach_mul_([t], 2.0),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("grad", [True, False])
def test_in_place_writes_reach_the_wide_network(how, grad):
    for path in ("qkv", "o"):
        net = packed().eval()
        view, before = net.at(0.5), copy.deepcopy(net.model)
        with torch.set_grad_enabled(grad), torch.no_grad():
            view(X)
            WRITES[how](view.get_submodule(path).weight)
        part = dict(view.named_parameters())[f"{path}.weight"]
        assert not torch.equal(net.model.get_submodule(path).weight, before.get_submodule(path).weight)
        assert_close(part.detach(), net.extract(0.5).get_submodule(path).weight.detach())
        same(net)


def test_parameters_are_parts_in_the_graph():
    net = packed()
    view = net.at(0.5)
    for (n, p), (m, q) in zip(view.named_parameters(), net.model.named_parameters(), strict=True):
        assert n == m
        assert p.grad_fn is not None
        (grad,) = torch.autograd.grad(p.sum(), q)
        assert grad.sum() == p.numel()
    assert all(t.grad_fn is not None for t in view.state_dict(keep_vars=True).values())
    assert all(t.grad_fn is None and t.is_contiguous() for t in view.state_dict().values())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.middle, self.head = (
            nn.Embedding(11, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 11, bias=False),
        )
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.words(x)))


def test_tied_parameters_are_listed_once():
    x = torch.tensor([[1, 2, 3]])
    net = Elastic(randomized(Tied()), x)
    assert net.space.groups
    view = net.at(0.5)
    assert [n for n, _ in view.named_parameters()] == [n for n, _ in net.model.named_parameters()]
    assert len({id(p) for p in view.parameters()}) == 3
    outer = nn.Sequential(view)
    assert [n for n, _ in outer.named_parameters()] == ["0.words.weight", "0.middle.weight", "0.middle.bias"]
    for made in (copy.deepcopy(view), net.extract(0.5)):
        assert made.head.weight is made.words.weight
    out = torch.func.functional_call(view, {n: torch.zeros_like(p) for n, p in view.named_parameters()}, (x,))
    assert not out.any()
    same(net, x)
