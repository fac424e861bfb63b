"""Groups that are joined have one number of channels, and the network stays what it was."""

import pytest
import torch
from torch import nn

from anywidth import Elastic, Width, reorder_
from anywidth.errors import WidthError
from anywidth.space.joined_groups import joined
from anywidth.tracing.groups import channel_space
from oracles import assert_narrow, groups, rand


def chain(*sizes: int) -> nn.Sequential:
    """Linear layers with a norm after each."""
    pairs = zip((4, *sizes), (*sizes, 3), strict=True)
    layers = (nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairs)
    return nn.Sequential(*layers).double()


def joined_chain(*sizes: int, **names: str) -> Elastic:
    x, model = rand(5, 4), chain(*sizes)
    return Elastic(model, x, space=joined(channel_space(model, x), names))


def test_groups_become_one():
    net = joined_chain(6, 8, 6, inner="[02].*")
    assert groups(net) == {"inner": (6, 1), "1.0": (8, 1)}
    group = net.space.groups[0]
    assert group.permutable
    assert {"0.0", "2.0"} <= set(group.writers)
    assert {"1.0", "3.0"} <= set(group.readers)


@pytest.mark.parametrize("kept", [1, 3, 6])
def test_a_narrow_network_is_that_built_by_hand(kept):
    net = joined_chain(6, 8, 6, inner="[02].*")
    assert_narrow(net, {"inner": kept, "1.0": 5}, chain(kept, 5, kept), rand(5, 4))


def test_costs_are_those_of_the_separate_groups():
    x, model = rand(5, 4), chain(6, 8, 6)
    apart, together = Elastic(model, x), joined_chain(6, 8, 6, inner="[02].*")
    for kept in (2, 5):
        narrow = apart.space.width({"0.0": kept, "2.0": kept})
        assert together.macs(together.space.width({"inner": kept})) == apart.macs(narrow)
        assert together.params(together.space.width({"inner": kept})) == apart.params(narrow)


def test_reordered_together():
    net, x = joined_chain(6, 8, 6, inner="[02].*").eval(), rand(5, 4)
    before, weight = net(x), net.model[2][0].weight.detach().clone()
    reorder_(net, {"inner": [5, 0, 4, 1, 3, 2]})
    torch.testing.assert_close(net(x), before, rtol=1e-12, atol=1e-12)
    assert torch.equal(net.model[2][0].weight, weight[[5, 0, 4, 1, 3, 2]])


def test_policies_hold_for_all():
    x, model = rand(5, 4), chain(24, 24)
    space = channel_space(model, x, divisor={"0.*": 4, "1.*": 6}, minimum={"0.*": 3})
    group = joined(space, {"all": "*"}).groups[0]
    assert (group.name, group.divisor, group.minimum) == ("all", 12, 3)


def test_the_space_survives_json():
    space = joined_chain(6, 8, 6, inner="[02].*").space
    assert type(space).from_json(space.to_json()) == space
    assert Width.from_json(space.full.to_json()) == space.full


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"inner": "*"}, r"'inner' cannot join '0\.0' \(6 units of 1 channels\) and '1\.0' \(8 of 1\); join groups of the same size"),
        ({"1.0": "[02].*"}, r"'1\.0' is the name of a group that '\[02\]\.\*' does not join"),
        ({"inner": "stage.*"}, r"unknown channel groups 'stage\.\*'.* nothing to join"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_joined(names, message):
    with pytest.raises(WidthError, match=message):
        joined_chain(6, 8, 6, **names)
