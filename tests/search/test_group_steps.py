import pytest

from anywidth import ChannelSpace
from anywidth.errors import WidthError
from anywidth.search.group_steps import group_steps, quantum
from small_space import group

SPACE = ChannelSpace(
    groups=(group("a.x", 64, divisor=8), group("a.y", 12, unit=6, divisor=8), group("b", 5)), axes={}
)


def test_the_quantum_is_the_fewest_units_that_cover_the_divisor():
    assert [quantum(g) for g in SPACE.groups] == [8, 2, 1]


@pytest.mark.parametrize(
    ("steps", "units"),
    [(12, [8, 2, 1]), (4, [16, 4, 1]), (2, [32, 6, 2]), (1, [64, 12, 5])],  # 64 / 4 / 8 = 2 quanta of 8
)
def test_a_group_is_cut_into_steps_of_whole_quanta(steps, units):
    assert group_steps(SPACE, steps) == units


def test_steps_by_pattern_are_in_channels():
    assert group_steps(SPACE, {"a.*": 24}) == [24, 4, 1]
    assert group_steps(SPACE, {"a.*": 24, "a.x": 8}) == [8, 4, 1]
    assert group_steps(SPACE, {}) == [8, 2, 1]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (0, "at least 1 step for each group, got 0"),
        ({"a.z": 6}, "unknown channel group 'a.z'"),
        ({"a.y": 8}, "a step of 8 channels in group 'a.y'; expected a multiple of 6"),
        ({"b": 0}, "a step of 0 channels in group 'b'"),
    ],
)
def test_steps_that_cannot_be(steps, message):
    with pytest.raises(WidthError, match=message):
        group_steps(SPACE, steps)
