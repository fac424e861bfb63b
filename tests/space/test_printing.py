import dataclasses
import re

import torch
from torch import nn

from anywidth import Elastic
from anywidth.space.axes import Frozen
from anywidth.space.printing import show
from small_space import group


def mlp(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def test_the_text_of_a_space_says_groups_and_reasons():
    text = str(Elastic(mlp(), torch.randn(4, 3)).space)
    assert re.search(r"^group +units +x channels +divisor +written by +read by$", text, re.MULTILINE)
    assert re.search(r"^0 +8 +1 +1 +0 +2$", text, re.MULTILINE)
    assert "frozen:" in text


def test_many_names_are_shortened_and_frozen_axes_are_counted_by_reason():
    wide = dataclasses.replace(group("stem", 8), writers=("a", "b", "c", "d", "e"))
    frozen = tuple(Frozen("w", axis, 3, reason) for axis, reason in ((0, "the output"), (1, "the input"), (2, "the input")))  # fmt: skip
    lines = show((wide,), frozen, ("mystery in net",)).splitlines()
    assert "a, b, c (+2)" in lines[2]
    assert lines[4:] == [
        "  2 axes: the input: w[1], w[2]",
        "  1 axis: the output: w[0]",
        "  no rule for mystery in net: the channels it touches are frozen",
    ]
