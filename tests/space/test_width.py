"""Widths are values: rounding, nesting, JSON, and clear refusals."""

import json
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anywidth import ChannelGroup, ChannelSpace, Width, errors
from anywidth.errors import unknown_name
from anywidth.space.axes import Run, Size
from anywidth.space.width import check_multiplier, round_units


def group(name: str, size: int, *, unit: int = 1, divisor: int = 1, minimum: int = 1) -> ChannelGroup:
    return ChannelGroup(
        name=name,
        size=size,
        unit=unit,
        divisor=divisor,
        minimum=minimum,
        permutable=True,
        writers=(name,),
        readers=(),
    )


SPACE = ChannelSpace(
    groups=(group("stem", 8), group("block.up", 16), group("block.heads", 4, unit=6)), axes={}
)


# --- rounding ----------------------------------------------------------------------------------------------------------------


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


def test_divisor_and_minimum_are_in_channels():
    g = group("heads", 12, unit=6, divisor=8, minimum=20)
    assert g.channels == 72
    assert (
        g.round(0.5) == 6
    )  # a quantum of 2 heads: 12 channels is the first multiple of a head that covers 8
    assert g.round(0.01) == 4  # 20 channels are 4 heads
    assert group("c", 32, divisor=8).round(0.5) == 16
    assert group("c", 30, divisor=8).round(1.0) == 30


def test_a_minimum_above_the_size_is_the_size():
    assert group("c", 4, minimum=100).round(0.1) == 4


# --- refusals -------------------------------------------------------------------------------------------------------------------


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


def test_a_share_outside_0_1_is_an_error():
    with pytest.raises(errors.WidthError, match=r"width multiplier 1.5 is outside"):
        SPACE.width({"stem": 1.5})


@pytest.mark.parametrize(
    ("name", "hint"), [("block.ups", "block.up"), ("stm", "stem"), ("block_heads", "block.heads")]
)
def test_an_unknown_group_is_an_error_with_the_nearest(name, hint):
    with pytest.raises(
        errors.WidthError,
        match=rf"unknown channel group '{name}'; did you mean '{hint}'\?.*print\(net.space\) lists them",
    ):
        SPACE.width({name: 2})
    with pytest.raises(KeyError, match=f"did you mean '{hint}'"):
        SPACE.full[name]


def test_unknown_names_are_listed_up_to_eight():
    assert unknown_name("thing", "zzz", []) == "unknown thing 'zzz' (known: none)"
    text = unknown_name("thing", "###", range(12))
    assert text == "unknown thing '###' (known: 0, 1, 2, 3, 4, 5, 6, 7, ...)"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"stem": 0}, r"group 'stem' cannot have 0 channels: it takes 1 to 8\."),
        ({"stem": 9}, r"group 'stem' cannot have 9 channels: it takes 1 to 8\."),
        (
            {"block.heads": 7},
            r"group 'block.heads' cannot have 7 channels: it takes 1 to 24 in multiples of 6",
        ),
        ({"block.heads": 30}, "cannot have 30 channels"),
        ({"stem": []}, r"group 'stem' cannot keep units \[\]: give different numbers from 0 to 7"),
        ({"stem": [1, 1]}, r"cannot keep units \[1, 1\]"),
        ({"stem": [0, 8]}, r"cannot keep units \[0, 8\]"),
        ({"stem": [-1]}, r"cannot keep units \[-1\]"),
    ],
)
def test_impossible_numbers_are_errors(wanted, message):
    with pytest.raises(errors.WidthError, match=message):
        SPACE.width(wanted)


def test_a_width_of_another_network_is_an_error():
    other = ChannelSpace(groups=(group("a", 8), group("b", 2)), axes={})
    with pytest.raises(errors.WidthError, match="this width has 2 groups of another network; this one has 3"):
        SPACE.check(other.full)
    with pytest.raises(errors.WidthError, match="group 'stem' cannot keep 9 units: it takes 0 to 8"):
        SPACE.check(Width(names=SPACE.names, kept=(9, 1, 1)))
    with pytest.raises(errors.WidthError, match=r"group 'block.heads' cannot keep -1 units"):
        SPACE.check(Width(names=SPACE.names, kept=(8, 1, -1)))


def test_impossible_vectors_are_errors():
    with pytest.raises(errors.WidthError, match="has 3 entries, one per group; got 2"):
        SPACE.from_vector([0.5, 0.5])
    with pytest.raises(
        errors.WidthError, match=r"entries of a width vector lie in \[0, 1\]; got -0.1 to 1.2"
    ):
        SPACE.from_vector([-0.1, 0.5, 1.2])


# --- values ---------------------------------------------------------------------------------------------------------------------


def test_uniform_full_and_smallest():
    assert SPACE.uniform(1.0) == SPACE.full
    assert SPACE.full.kept == (8, 16, 4)
    assert SPACE.uniform(0.5).kept == (4, 8, 2)
    assert SPACE.smallest.kept == (1, 1, 1)
    assert SPACE.channels(SPACE.uniform(0.5)) == {"stem": 4, "block.up": 8, "block.heads": 12}


def test_widths_by_name_pattern_share_and_units():
    w = SPACE.width({"block.*": 0.5, "block.heads": 18, "stem": [0, 1, 2]})
    assert dict(w) == {"stem": 3, "block.up": 8, "block.heads": 3}
    assert w.is_prefix  # the first three units are a prefix
    assert SPACE.width({"stem": 2}, default=0.5).kept == (2, 8, 2)
    assert SPACE.width({"stem": 2}, default=SPACE.smallest).kept == (2, 1, 1)
    assert SPACE.width({"*": 1.0, "stem": 2}).kept == (2, 16, 4)  # later entries win


def test_chosen_units():
    w = SPACE.width({"stem": (5, 1, 3)})
    assert not w.is_prefix
    assert list(w.units(0)) == [1, 3, 5]
    assert w.units(1) == range(16)
    assert w.kept[0] == 3
    again = SPACE.width({"block.up": 4}, default=w)
    assert list(again.units(0)) == [1, 3, 5]
    assert SPACE.width({"stem": 0.5}, default=w).is_prefix


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


widths = st.tuples(st.integers(1, 8), st.integers(1, 16), st.integers(1, 4)).map(
    lambda k: Width(names=SPACE.names, kept=k)
)
chosen = st.sets(st.integers(0, 7), min_size=1).map(lambda u: SPACE.width({"stem": sorted(u)}))


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


@given(widths)
def test_vector_round_trip(w):
    vector = SPACE.to_vector(w)
    assert all(0 < v <= 1 for v in vector)
    assert SPACE.from_vector(vector) == w


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_vectors_give_widths_that_obey_the_policy(vector):
    w = SPACE.from_vector(vector)
    assert SPACE.from_vector(SPACE.to_vector(w)) == w
    assert SPACE.check(w) is w
    assert SPACE.from_vector([0, 0, 0]) == SPACE.smallest
    assert SPACE.from_vector([1, 1, 1]) == SPACE.full


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.sampled_from([1, 4, 8]))
def test_uniform_widths_are_nested(a, b, divisor):
    space = ChannelSpace(
        groups=(group("a", 30, divisor=divisor), group("b", 7, unit=3, divisor=divisor)), axes={}
    )
    low, high = sorted((a, b))
    assert space.uniform(low) <= space.uniform(high)


# --- random widths ------------------------------------------------------------------------------------------------------------------


def test_samples_follow_the_generator():
    def draw(seed: int) -> list[Width]:
        generator = torch.Generator().manual_seed(seed)
        return [SPACE.sample(generator) for _ in range(5)]

    before = torch.random.get_rng_state()
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_samples_stay_in_the_interval_and_reach_its_ends():
    generator = torch.Generator().manual_seed(0)
    drawn = [SPACE.sample(generator, low=0.5, high=0.75) for _ in range(300)]
    assert {w["stem"] for w in drawn} == {4, 5, 6}
    assert {w["block.up"] for w in drawn} == {8, 9, 10, 11, 12}
    anything = [SPACE.sample(generator) for _ in range(400)]
    assert {w["stem"] for w in anything} == set(range(1, 9))


def test_uniform_samples_have_one_share():
    generator = torch.Generator().manual_seed(0)
    space = ChannelSpace(groups=tuple(group(str(i), 1000) for i in range(4)), axes={})
    assert all(len(set(space.sample(generator, uniform=True).kept)) == 1 for _ in range(10))
    assert any(len(set(space.sample(generator).kept)) > 1 for _ in range(10))


def test_sampling_a_space_without_groups():
    space = ChannelSpace(groups=(), axes={})
    assert space.sample(torch.Generator(), uniform=True) == space.sample(torch.Generator()) == space.full


# --- sizes --------------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 7), st.integers(1, 8), st.integers(1, 4), st.integers(0, 5), st.one_of(widths, chosen))
def test_a_size_counts_the_positions_of_active_units(first, count, each, constant, w):
    run = Run(0, first, count, each)
    units = set(w.units(0)) & set(range(first, first + count))
    assert Size(constant, (run,)).at(w) == constant + each * len(units)
    assert run.positions == count * each


def test_a_space_goes_through_json():
    from anywidth import Elastic

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 4, 1, groups=2),
        nn.Conv2d(4, 2, 1),
    )
    space = Elastic(model, torch.randn(1, 3, 6, 6), divisor=2).space
    text = space.to_json()
    again = ChannelSpace.from_json(text)
    assert again == space
    assert again.to_json() == text
    assert str(again) == str(space)
    assert pickle.loads(pickle.dumps(space)) == space
    assert again.uniform(0.5) == space.uniform(0.5)
