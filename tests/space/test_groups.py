from anywidth.space.groups import policy_of_group
from small_space import group


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


def test_later_patterns_win_and_one_is_what_no_pattern_says():
    policy = {"layer*": 8, "*.conv2": 4}
    names = ("layer1.conv1", "layer1.conv2", "stem")
    assert [policy_of_group(policy, name) for name in names] == [8, 4, 1]
    assert policy_of_group(16, "stem") == 16
