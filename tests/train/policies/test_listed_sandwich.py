import pytest
import torch

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.train import listed_sandwich, policies
from drawn_widths import drawn


@pytest.fixture(scope="module")
def many(net) -> Elastic:
    """Six widths under whole numbers and words; two are the narrowest's, and one ratio is no ratio."""
    shares = {0: 0.25, 1: 0.375, 2: 0.5, 3: 0.75, "smallest": 0.25, "largest": 1.0, "wide": 0.75}
    return Elastic(net.model, torch.randn(1, 4), widths=shares)


def test_a_sandwich_of_listed_widths(many):
    draw = policies.make_draw("listed_sandwich", many, low=0.25, high=1.0, random=2)
    found = drawn(draw, 900)
    assert {w[0] for w in found} == {"largest"}
    assert {many.width(w[-1]) for w in found} == {many.width(0)}
    counts = {label: sum(w[1:3].count(label) for w in found) for label in (1, 2, 3)}
    assert sum(counts.values()) == 1800
    assert list(counts.values()) == pytest.approx([600] * 3, abs=80)
    assert any(w[1] == w[2] for w in found)
    assert drawn(draw) == drawn(draw)


def test_the_ends_of_a_sandwich_of_listed_widths_are_chosen(many):
    options = {"widest": 3, "narrowest": "smallest"}
    draw = policies.make_draw("listed_sandwich", many, low=0.25, high=1.0, random=1, options=options)
    assert {(w[0], w[2]) for w in drawn(draw)} == {(3, "smallest")}
    assert {w[1] for w in drawn(draw)} == {1, 2, "largest"}
    assert drawn(listed_sandwich(named=many.widths, random=0, widest=3, narrowest=0), 3) == [(3, 0)] * 3


@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        ([0, 1], {}, "and 0 others"),
        ([0, 1, 2], {"random": -1}, "got random=-1"),
        ([0, "smallest", 1], {"widest": 0, "narrowest": "smallest"}, "two different ends"),
        ([0, 1, 2], {"narrowest": "small"}, r"unknown width label 'small'.*widths.listed names them"),
    ],
)
def test_sandwiches_of_listed_widths_that_cannot_be(many, labels, values, message):
    with pytest.raises(WidthError, match=message):
        listed_sandwich(named={label: many.widths[label] for label in labels}, **values)
