import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anywidth import ChannelSpace, Width, errors
from small_space import SPACE, group, widths


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


@pytest.mark.parametrize("units", [(1, 8), (-1, 3), (3, 1), (1, 1), (1, 2, 3)])
def test_a_width_with_units_that_a_group_lacks_is_an_error(units):
    width = Width(names=SPACE.names, kept=(2, 16, 4), indices=(units, None, None))
    with pytest.raises(errors.WidthError, match="'stem'"):
        SPACE.check(width)
