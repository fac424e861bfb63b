import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic, errors
from anywidth.tracing.groups import channel_space
from oracles import groups, rand, randomized


def mlp(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


@pytest.mark.parametrize("pattern", ["up", "up.weight", "u*", "layer*.up"])
def test_freeze_by_module_parameter_or_pattern(pattern):
    class Two(nn.Module):
        def __init__(self, prefix: str = ""):
            super().__init__()
            self.layer1 = nn.ModuleDict({"up": nn.Linear(3, 8), "down": nn.Linear(8, 3)})
            self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(self.layer1["down"](self.layer1["up"](x)).sin()))

    net = Elastic(randomized(Two()), rand(4, 3), freeze=[pattern])
    left = {"layer1.up": (8, 1), "layer1.down": (3, 1), "up": (6, 1)}
    del left[
        "layer1.up" if pattern.startswith("layer") else "up"
    ]  # what a layer makes stays, not what it reads
    assert groups(net) == left
    assert any(f.reason == f"frozen by name ({pattern})" for f in net.space.frozen)


def test_a_freeze_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(
        errors.WidthError,
        match=r"unknown module or parameter '0.wieght'; did you mean '0\.weight'.*glob patterns",
    ):
        Elastic(mlp(), torch.randn(4, 3), freeze=["0.wieght"])


def test_inputs_and_outputs_are_fixed():
    net = Elastic(mlp(), torch.randn(4, 3))
    axes = net.space.axes
    assert axes["0.weight"][1] is None
    assert axes["2.weight"][0] is None
    assert "2.bias" not in axes


def test_parameters_that_are_not_used_are_frozen():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.spare = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(7, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    net = Elastic(randomized(Unused()), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert net.at(0.5).spare.weight.shape == (9, 7)
    assert any(f.tensor == "spare.weight" and f.reason.startswith("not used") for f in net.space.frozen)


def test_a_model_without_channels_has_an_empty_space():
    net = Elastic(nn.Linear(3, 2), torch.randn(4, 3))
    assert net.space.groups == ()
    assert net.at(0.5)(torch.ones(1, 3)).shape == (1, 2)
    assert net.macs(0.5) == net.macs(1.0) == 4 * 6


def test_groups_partition_the_channels_of_every_axis():
    """Every unit of a group stands on an axis equally often, and the runs of an axis add up to its size."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=2, padding=1)
            self.c, self.norm = nn.Conv2d(20, 6, 1), nn.BatchNorm2d(20)
            self.head = nn.Linear(6 * 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            x = self.norm(torch.cat([x, self.b(x)], 1))
            return self.head(F.adaptive_avg_pool2d(self.c(x), 2).flatten(1))

    model = Mixed()
    space = Elastic(model, torch.randn(2, 3, 4, 4)).space
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, axes in space.axes.items():
        for axis, size in zip(axes, tensors[name].shape, strict=False):
            if axis is None:
                continue
            assert sum(r.positions for r in axis) == size
            counts = {i: np.zeros(g.size, int) for i, g in enumerate(space.groups)}
            for r in axis:
                if r.group >= 0:
                    counts[r.group][r.first : r.first + r.count] += r.each
            assert all(np.unique(c).size == 1 for c in counts.values())


def test_channel_space_without_a_trial_of_the_narrow_network():
    space = channel_space(mlp(), torch.randn(4, 3), divisor=4, minimum=2)
    assert [(g.name, g.size, g.divisor, g.minimum) for g in space.groups] == [("0", 8, 4, 2)]
