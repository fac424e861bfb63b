"""Widths are values: rounding, nesting, JSON, and clear refusals."""

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anywidth import ChannelSpace, Width, errors
from anywidth.errors import unknown_name
from anywidth.space.width import check_multiplier, round_units
from small_space import SPACE, chosen, group, widths


def make_divisible(v: float, divisor: int = 8, min_value: int | None = None) -> int:
    """The rule as published with MobileNet: tensorflow/models, research/slim/nets/mobilenet/mobilenet.py."""
    if min_value is None:
        min_value = divisor
    new_v = max(min_value, int(v + divisor / 2) // divisor * divisor)
    if new_v < 0.9 * v:  # make sure that round down does not go down by more than 10 %
        new_v += divisor
    return new_v


@given(st.floats(0.5, 4096), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_rounding_is_make_divisible(v, divisor):
    assert round_units(v, size=10**6, quantum=divisor, minimum=divisor) == make_divisible(v, divisor)


@given(st.integers(1, 512), st.floats(1e-6, 1.0), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 16))
def test_rounded_units_are_units_of_the_group(size, share, quantum, minimum):
    got = round_units(size * share, size=size, quantum=quantum, minimum=min(minimum, size))
    assert 1 <= got <= size
    assert got in (size, minimum) or got % quantum == 0
    assert got >= min(0.9 * size * share, size)
    assert round_units(size, size=size, quantum=quantum) == size


@pytest.mark.parametrize(
    ("units", "options", "expected"),
    [
        (2.5, {}, 3),  # halves up, not to even
        (3.5, {}, 4),
        (11, {"quantum": 8}, 16),  # 8 would be under 90 %
        (12, {"quantum": 8}, 16),
        (67.2, {"quantum": 8}, 64),
        (1, {"quantum": 8}, 8),
        (1, {"quantum": 8, "minimum": 8}, 8),
        (40, {"quantum": 8}, 40),
        (100, {"quantum": 8, "size": 99}, 99),
        (265, {"quantum": 4, "size": 265}, 265),  # the whole group, though no multiple
        (3.75, {"quantum": 8}, 8),  # not 1 + 8
        (1, {"quantum": 2, "minimum": 3}, 3),
    ],
)
def test_rounding_by_hand(units, options, expected):
    assert round_units(units, **{"size": 1000, **options}) == expected


@pytest.mark.parametrize("value", [0, 0.0, -0.5, 1.01, 2, math.nan, math.inf])
def test_a_multiplier_outside_0_1_is_an_error(value):
    with pytest.raises(
        errors.WidthError, match=r"width multiplier .* is outside \(0, 1\]: 1.0 is the wide network itself"
    ):
        check_multiplier(value)
    with pytest.raises(errors.WidthError, match="outside"):
        SPACE.uniform(value)
    with pytest.raises(errors.WidthError, match="outside"):
        SPACE.width({}, default=value)


def test_unknown_names_are_listed_up_to_eight():
    assert unknown_name("thing", "zzz", []) == "unknown thing 'zzz' (known: none)"
    text = unknown_name("thing", "###", range(12))
    assert text == "unknown thing '###' (known: 0, 1, 2, 3, 4, 5, 6, 7, ...)"


def test_a_width_is_a_mapping():
    w = SPACE.uniform(0.5)
    assert (len(w), list(w), w["stem"], "stem" in w) == (3, list(SPACE.names), 4, True)
    assert repr(w) == "Width(stem: 4, block.up: 8, block.heads: 2)"
    assert repr(ChannelSpace(groups=tuple(group(str(i), 4) for i in range(5)), axes={}).full).endswith(
        ", ...)"
    )


def test_equal_widths_are_one_key():
    a, b = SPACE.uniform(0.5), SPACE.width({"stem": 4, "block.up": 8, "block.heads": 12})
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b, SPACE.full}) == 2
    assert a != SPACE.width({"stem": [1, 2, 3, 4]}, default=0.5)
    assert a != "not a width"
    assert pickle.loads(pickle.dumps(a)) == a


@given(widths, widths)
def test_nesting_is_the_order_of_sets(a, b):
    assert (a <= b) == all(set(a.units(i)) <= set(b.units(i)) for i in range(3))
    smaller = Width(names=SPACE.names, kept=tuple(map(min, a.kept, b.kept)))
    assert smaller <= a
    assert smaller <= b
    assert SPACE.smallest <= a <= SPACE.full


@given(chosen, chosen)
def test_nesting_of_chosen_units(a, b):
    assert (a <= b) == (set(a.units(0)) <= set(b.units(0)))
    assert a <= SPACE.full


@given(st.one_of(widths, chosen))
def test_json_round_trip(w):
    assert Width.from_json(json.loads(json.dumps(w.to_json()))) == w


def test_units_are_those_of_a_group_by_name_or_number():
    width = Width(names=SPACE.names, kept=(2, 16, 4), indices=((1, 5), None, None))
    assert width.units("stem") == width.units(0) == (1, 5)
    assert width.units("block.heads") == range(4)
    with pytest.raises(KeyError, match="unknown channel group 'stm'; did you mean 'stem'"):
        width.units("stm")
