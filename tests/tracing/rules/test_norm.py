import pytest
from torch import Tensor, nn

from oracles import assert_narrow, groups, rand
from traced_nets import IMAGE, elastic, in_each


class Normed(nn.Module):
    def __init__(self, norm: nn.Module, width: int):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(3, width), norm, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d])
def test_norms_over_the_last_dimension(norm):
    net = elastic(Normed(norm(8), 8), 4, 3)
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, Normed(norm(5), 5), rand(4, 3))


class GroupNormed(nn.Module):
    def __init__(self, width: int, number: int):
        super().__init__()
        self.stem, self.norm, self.head = (
            nn.Conv2d(3, width, 3),
            nn.GroupNorm(number, width),
            nn.Conv2d(width, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def test_group_norm_with_few_groups_narrows_each():
    net = elastic(GroupNormed(8, 2))
    axis = in_each(2, 4, 3)
    where = {f"{m}.{n}": {0: axis} for m in ("stem", "norm") for n in ("weight", "bias")}
    assert groups(net) == {"stem": (4, 2)}
    assert_narrow(net, {"stem": 6}, GroupNormed(6, 2), rand(*IMAGE), {**where, "head.weight": {1: axis}})


def test_group_norm_with_many_groups_loses_whole_groups():
    net = elastic(GroupNormed(32, 8))
    assert groups(net) == {"stem": (8, 4)}
    assert_narrow(net, {"stem": 20}, GroupNormed(20, 5), rand(*IMAGE))


@pytest.mark.parametrize("instance", [False, True])
def test_group_norm_of_one_group_or_one_channel_each(instance):
    net = elastic(GroupNormed(8, 8 if instance else 1))
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, GroupNormed(5, 5 if instance else 1), rand(*IMAGE))


class InstanceNormed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3), nn.InstanceNorm2d(width, affine=True)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def test_instance_norm():
    net = elastic(InstanceNormed(8))
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, InstanceNormed(5), rand(*IMAGE))
