"""Scripted and quantised modules run as they are; everything else narrows around them."""

import copy

import pytest
import torch
from torch import nn

from anywidth import Elastic
from anywidth.errors import TraceError
from anywidth.tracing.opaque_modules import kind_of_opaque, open_modules
from oracles import rand, randomized

pytestmark = [pytest.mark.filterwarnings(f"ignore::{w}Warning") for w in ("Deprecation", "Future", "User")]


def inner() -> nn.Module:
    return randomized(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)))


def scripted() -> nn.Module:
    return torch.jit.script(inner())


def traced() -> nn.Module:
    return torch.jit.trace(inner(), rand(2, 12))


def around(opaque: nn.Module, width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 12), opaque, nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 3))


def by_hand(model: nn.Module, opaque: nn.Module, kept: int) -> nn.Module:
    compact = around(opaque, kept).to(torch.float64)
    compact[0].load_state_dict(model[0].state_dict())
    compact[2].weight.data, compact[2].bias.data = (
        model[2].weight[:kept].detach(),
        model[2].bias[:kept].detach(),
    )
    compact[4].weight.data, compact[4].bias.data = model[4].weight[:, :kept].detach(), model[4].bias.detach()
    return compact


@pytest.mark.parametrize("make", [scripted, traced])
def test_what_is_around_a_scripted_module_narrows(make):
    model = randomized(around(make()))
    x, full = rand(5, 4), model(rand(5, 4))
    net = Elastic(model, x)
    assert [(g.name, g.size) for g in net.space.groups] == [("2", 16)]
    assert {f.reason for f in net.space.frozen if f.tensor in ("0.weight", "1.0.weight")} >= {
        "scripted module '1' (the call in 1)"
    }
    expected = by_hand(model, model[1], 5)(x)
    width = net.space.width({"2": 5})
    torch.testing.assert_close(net.at(width)(x), expected)
    small = net.extract(width)
    torch.testing.assert_close(small(x), expected)
    torch.testing.assert_close(copy.deepcopy(small)(x), expected)
    assert net.params(width) == sum(p.numel() for p in small.parameters())
    assert net.macs(width) == 5 * (4 * 12 + 12 * 16 + 16 * 12 + 12 * 5 + 5 * 3)
    torch.testing.assert_close(model(x), full)
    net.at(width)(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(inner().float(), {nn.Linear})


def test_what_is_around_a_quantised_module_narrows():
    model = randomized(
        nn.Sequential(nn.Linear(4, 12), nn.Identity(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    )
    model = model.float()
    model[1] = quantised()
    x = rand(5, 4).float()
    net = Elastic(model, x)
    assert [(g.name, g.size) for g in net.space.groups] == [("2", 16)]
    assert any(f.reason.startswith("quantised module '1.0'") for f in net.space.frozen)
    width = net.space.width({"2": 5})
    expected = by_hand(model.double(), nn.Identity(), 5).float()
    expected[1] = model.float()[1]
    torch.testing.assert_close(net.at(width)(x), expected(x))
    torch.testing.assert_close(net.extract(width)(x), expected(x))


@pytest.mark.parametrize("make", [scripted, traced])
def test_a_model_that_is_scripted_as_a_whole_is_refused(make):
    with pytest.raises(
        TraceError, match=r"is a scripted module: nothing in it can be narrowed. Give the nn.Module"
    ):
        Elastic(make(), rand(2, 12))


def test_a_quantised_layer_is_refused():
    with pytest.raises(TraceError, match=r"is a quantised module.*quantise a copy"):
        Elastic(quantised()[0], rand(2, 12).float())


def test_open_modules_leave_out_what_is_inside():
    model = around(scripted())
    assert list(open_modules(model)) == ["", "0", "2", "3", "4"]
    assert kind_of_opaque(torch.ao.nn.quantized.FloatFunctional()) is None
    assert kind_of_opaque(torch.ao.nn.quantized.Quantize(1.0, 0, torch.quint8)) == "quantised module"


def test_a_failing_scripted_module_is_named_and_put_back():
    opaque = scripted()
    model = nn.Sequential(nn.Linear(4, 7), opaque).double()
    with pytest.raises(TraceError, match="in module '1'"):
        Elastic(model, rand(2, 4))
    assert model[1] is opaque
