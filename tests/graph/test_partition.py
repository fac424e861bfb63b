import pytest
import torch
from torch import Tensor, nn

from anywidth.errors import TraceError
from anywidth.graph.partition import Cut, flat, run, split


class Skipping(nn.Module):
    """The output of the stem skips a layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(y + self.body(y).relu())


def test_parts_compute_what_the_network_does_and_hand_on_what_skips():
    net, x = Skipping(), torch.randn(5, 3)
    first, second, third = parts = split(net, [Cut(at="stem"), Cut(at="body")])
    torch.testing.assert_close(run(parts, x), net(x))
    feature, passed_on = first.module(x)
    assert feature is passed_on
    feature, *values = second.module(passed_on)
    torch.testing.assert_close(feature, net.body(passed_on))
    assert len(values) == 2  # what the body gave, and what skipped it
    torch.testing.assert_close(third.module(*values), net(x))


def test_tensors_are_those_that_a_part_uses():
    parts = split(Skipping(), [Cut(at="body")])
    assert [sorted(part.tensors) for part in parts] == [
        ["body.bias", "body.weight", "stem.bias", "stem.weight"],
        ["head.bias", "head.weight"],
    ]


def test_a_feature_comes_from_an_earlier_module():
    net, x = Skipping(), torch.randn(5, 3)
    cut = Cut(at="body", feature="stem")
    assert (cut.seen, Cut(at="body").seen) == ("stem", "body")
    feature, *_ = split(net, [cut])[0].module(x)
    torch.testing.assert_close(feature, net.stem(x))


def test_a_flat_part_computes_the_same_with_modules_on_one_level():
    net, x = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)), torch.randn(2, 3)
    (part,) = split(net, [])
    level = flat(part.module)
    torch.testing.assert_close(level(x), net(x))
    assert sorted(dict(level.named_children())) == ["0__0", "0__1", "1"]


def test_networks_and_cuts_that_cannot_be():
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match="Branching cannot be cut into parts"):
        split(Branching(), [])
    with pytest.raises(TraceError, match="cuts go from the inputs to the output"):
        split(Skipping(), [Cut(at="body"), Cut(at="stem")])
    with pytest.raises(TraceError, match="unknown module to cut at 'steam'; did you mean 'stem'"):
        split(Skipping(), [Cut(at="steam")])
