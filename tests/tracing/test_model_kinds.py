"""Models that are not written by hand: torch.fx graphs, compiled, wrapped, prepared for quantisation. All narrow exactly."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anywidth import Elastic
from model_snapshots import differences, snapshot
from oracles import rand, randomized

pytestmark = [pytest.mark.filterwarnings(f"ignore::{w}Warning") for w in ("Deprecation", "Future", "User")]


class Mixed(nn.Module):
    """Parameters, buffers and numbers of its own, sizes that are read and sizes that are written."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.i, self.m, self.o = nn.Linear(4, hidden), nn.Linear(hidden, 12), nn.Linear(12, 2)
        self.scale = nn.Parameter(torch.ones(hidden))
        self.register_buffer("shift", torch.ones(hidden))
        self.factor = 2.0

    def forward(self, x: Tensor) -> Tensor:
        h = (self.i(x) * self.scale + self.shift).relu() * self.factor
        return self.o(self.m(h).view(-1, 12))


def compact(model: nn.Module, kept: int) -> nn.Module:
    small = Mixed(kept).double()
    wide = model.state_dict()
    small.load_state_dict({n: wide[n][tuple(map(slice, t.shape))] for n, t in small.state_dict().items()})
    return small


def plain_graph(model: nn.Module) -> nn.Module:
    return torch.fx.symbolic_trace(model)


def copied_graph(model: nn.Module) -> nn.Module:
    return copy.deepcopy(torch.fx.symbolic_trace(model))


def saved_graph(model: nn.Module) -> nn.Module:
    return through_file(torch.fx.symbolic_trace(model))


def recompiled_graph(model: nn.Module) -> nn.Module:
    graph = torch.fx.symbolic_trace(model)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def through_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", [plain_graph, copied_graph, saved_graph, recompiled_graph])
def test_graphs_of_fx_narrow_and_their_copies_are_graphs(kind):
    model, x = randomized(Mixed(8)), rand(3, 4)
    net = Elastic(kind(model), x)
    assert [(g.name, g.size) for g in net.space.groups] == [("i", 8)]
    assert "the size 12 is written in the code (view in <root>)" in {f.reason for f in net.space.frozen}
    expected, width = compact(model, 5)(x), net.space.width({"i": 5})
    torch.testing.assert_close(net.at(width)(x), expected)
    small = net.extract(width)
    small.recompile()
    for twin in (small, copy.deepcopy(small), through_file(small), torch.fx.symbolic_trace(small)):
        torch.testing.assert_close(twin(x), expected)
    torch.testing.assert_close(Elastic(small, x).at(1.0)(x), expected)


def test_a_graph_inside_a_model_narrows_with_it():
    model, x = randomized(Mixed(8)), rand(3, 4)
    outer = nn.Sequential(torch.fx.symbolic_trace(model), nn.ReLU())
    outer[0].note = {"made": "by hand"}
    net = Elastic(outer, x)
    width = net.space.width({"0.i": 5})
    torch.testing.assert_close(net.at(width)(x), compact(model, 5)(x).relu())
    small = net.extract(width)
    torch.testing.assert_close(small(x), compact(model, 5)(x).relu())
    assert small[0].note == {"made": "by hand"}


class Checkpointed(Mixed):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("wrap", [compiled, compiled_in_place, nn.DataParallel])
def test_wrapped_models_narrow(wrap):
    model, x = randomized(Mixed(8)), rand(3, 4)
    net = Elastic(wrap(model), x)
    width = net.space.width({net.space.names[0]: 5})
    torch.testing.assert_close(net.at(width)(x), compact(model, 5)(x))
    torch.testing.assert_close(net.extract(width)(x), compact(model, 5)(x))


def test_checkpointed_models_narrow():
    model, x = randomized(Checkpointed(8)), rand(3, 4)
    net = Elastic(model, x)
    width = net.space.width({"i": 5})
    out = net.at(width)(x)
    torch.testing.assert_close(out, compact(model, 5)(x))
    out.sum().backward()
    assert not model.i.weight.grad[5:].any()


@pytest.mark.parametrize("backend", ["qnnpack", "fbgemm"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("ran", [True, False])
def test_observers_of_quantisation_aware_training_see_nothing_of_a_trace(backend, fused, ran):
    quantisation = torch.ao.quantization
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    model = quantisation.QuantWrapper(model).train()
    model.qconfig = quantisation.get_default_qat_qconfig(backend)
    if fused:
        quantisation.fuse_modules_qat(model.module, [["0", "1", "2"]], inplace=True)
    quantisation.prepare_qat(model, inplace=True)
    x = rand(2, 3, 6, 6).float()
    if ran:
        model(x)
    before = snapshot(model)
    net = Elastic(model, x)
    assert differences(before, snapshot(model)) == []
    if ran:
        net.calibrate([x], widths=[0.5])
        net.eval()
        small = net.extract(0.5).eval()
        torch.testing.assert_close(small(x), net.at(0.5)(x), rtol=0, atol=0)
