import pytest

from anywidth.errors import WidthError
from anywidth.search import Budget, Greedy, check, closed_form, largest_uniform, parse, run_search
from enumerated_searches import additive, budget


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("macs=75%,50%", {"macs=75%": 750.0, "macs=50%": 500.0}),
        ("params=2.5M", {"params=2.5M": 2.5e6}),
        ("latency=5ms,1s", {"latency=1s": 1.0, "latency=5ms": 5e-3}),
        ("macs=300", {"macs=300": 300.0}),
    ],
)
def test_budgets_as_they_are_typed(text, limits):
    found = parse(text, lambda kind: 1000.0)
    assert found.limits == pytest.approx(limits)
    assert list(found.limits) == list(limits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops=3", "expected macs=LIMITS"),
        ("macs", "expected macs=LIMITS"),
        ("macs=3ms", "expected a number with one of %, k, M, G, T"),
        ("latency=50%", "a share would be measured anew"),
        ("latency=3M", "expected a number with one of %, s, ms, us"),
        ("macs=1.2.3", "'1.2.3' is no number"),
    ],
)
def test_budgets_that_cannot_be_read(text, message):
    with pytest.raises(WidthError, match=message):
        parse(text, lambda kind: 1000.0)


def test_budgets_that_cannot_be_met(net):
    costs = closed_form(net, "macs")
    with pytest.raises(WidthError, match="is outside what this network can have: the smallest width costs"):
        check(net, budget(net, {"a": 0.001}), costs)
    with pytest.raises(WidthError, match="no limits"):
        check(net, Budget(kind="macs", limits={}), costs)
    with pytest.raises(WidthError, match="the smallest width still costs"):
        run_search(Greedy(net, budget(net, {"a": 0.001}), steps=4), additive(net), costs)
    with pytest.raises(WidthError, match="not even the smallest width"):
        largest_uniform(net, costs, 1.0)


def test_the_largest_uniform_width_within_a_limit(net):
    costs = closed_form(net, "macs")
    for limit in (0.2, 0.5, 0.99, 1.0):
        width = largest_uniform(net, costs, limit * net.macs(1.0))
        fitting = [
            net.space.uniform(r / 100) for r in range(1, 101) if net.macs(r / 100) <= limit * net.macs(1.0)
        ]
        assert width == fitting[-1]
