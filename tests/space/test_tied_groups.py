import pytest
import torch
from torch import nn

from anywidth import Elastic
from anywidth.errors import WidthError
from anywidth.space.axes import Run
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.tied_groups import tied
from oracles import fill_, rand, randomized


def chain(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, 2))


@pytest.fixture
def net() -> Elastic:
    separate = Elastic(randomized(chain(8, 12)), rand(4, 3))
    return Elastic(separate.model, rand(4, 3), space=tied(separate.space, 4))


def test_all_groups_are_one_of_equal_shares(net):
    (group,) = net.space.groups
    assert (group.name, group.size, group.permutable) == ("width", 4, False)
    assert group.writers == ("0", "2")
    assert group.readers == ("2", "4")
    assert net.space.axes["2.weight"] == ((Run(0, 0, 4, 3),), (Run(0, 0, 4, 2),))
    assert net.space.axes["0.weight"][1] is None


@pytest.mark.parametrize("units", [1, 2, 3])
def test_a_narrow_network_has_the_leading_positions_of_every_axis(net, units):
    width, x = net.space.width({"width": units}), rand(4, 3)
    compact = fill_(chain(2 * units, 3 * units), net.model, {})
    torch.testing.assert_close(net.at(width)(x), compact(x))
    assert net.params(width) == sum(p.numel() for p in compact.parameters())
    assert net.macs(width) == 4 * (3 * 2 * units + 2 * units * 3 * units + 3 * units * 2)


def test_a_tied_space_survives_json(net):
    assert ChannelSpace.from_json(net.space.to_json()) == net.space


def test_axes_that_cannot_be_cut_so_are_refused():
    space = Elastic(randomized(chain(8, 12)), rand(4, 3)).space
    with pytest.raises(WidthError, match=r"has 12 channels, which are not 8 equal shares"):
        tied(space, 8)
    beside = Elastic(Concatenated(), rand(4, 3).float()).space
    with pytest.raises(WidthError, match="has 11 channels, which are not 4 equal shares"):
        tied(beside, 4)


class Concatenated(nn.Module):
    """Three channels of the input stand beside eight elastic ones."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(11, 2)

    def forward(self, x):
        return self.b(torch.cat([x, self.a(x)], 1))
