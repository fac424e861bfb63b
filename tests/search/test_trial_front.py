import pytest

from anywidth.errors import WidthError
from anywidth.search import Budget, Member
from anywidth.search.history import Trial
from anywidth.search.trial_front import best_within, front_of_trials
from anywidth.space.width import Width


def trial(net, kept, error) -> Trial:
    width = Width(names=net.space.names, kept=kept)
    return Trial(width=width, cost=float(net.macs(width)), error=error)


@pytest.fixture
def trials(net) -> list[Trial]:
    return [trial(net, (8, 8, 8), 0.1), trial(net, (4, 4, 4), 0.3), trial(net, (6, 6, 6), 0.4), trial(net, (2, 2, 2), 0.5)]  # fmt: skip


def test_without_a_budget_the_front_is_what_none_dominates(net, trials):
    front = front_of_trials(net, trials, "macs", None, {"seed": 1})
    assert [member.width.kept for member in front.members] == [(2, 2, 2), (4, 4, 4), (8, 8, 8)]
    assert [member.label for member in front.members] == [
        f"{net.macs(member.width) / net.macs(1.0):.3f}" for member in front.members
    ]
    assert front.members[-1].label == "1.000"
    assert (front.budget, front.about) == ("macs", {"seed": 1})
    assert [member.params for member in front.members] == [
        net.params(member.width) for member in front.members
    ]


def test_members_of_one_share_have_labels_of_their_own(net):
    """As widths of a large network may that agree in three digits; here one width with two costs."""
    first = trial(net, (4, 4, 4), 0.3)
    second = Trial(width=first.width, cost=first.cost + 1, error=0.2)
    labels = [member.label for member in front_of_trials(net, [first, second], "latency", None, {}).members]
    assert labels == [labels[0], f"{labels[0]}'"]


def test_with_a_budget_each_limit_has_its_best(net, trials):
    limits = {"all": float(net.macs(1.0)), "some": float(net.macs(trials[2].width))}
    front = front_of_trials(net, trials, "macs", Budget(kind="macs", limits=limits), {})
    assert [(member.label, member.error) for member in front.members] == [("some", 0.3), ("all", 0.1)]


def test_of_equal_errors_the_cheaper_one_is_best(net):
    members = [
        Member(label="", width=net.space.full, cost=cost, error=error, macs=1, params=1)
        for cost, error in ((3.0, 0.2), (2.0, 0.2), (1.0, 0.4), (9.0, 0.0))
    ]
    best = best_within(members, "x", 5.0)
    assert (best.cost, best.label) == (2.0, "x")


def test_nothing_measured_or_nothing_within_a_limit_is_an_error(net, trials):
    with pytest.raises(WidthError, match="no width was measured yet"):
        front_of_trials(net, [], "macs", None, {})
    with pytest.raises(WidthError, match="budget tiny: no width was found that costs at most 1"):
        front_of_trials(net, trials, "macs", Budget(kind="macs", limits={"tiny": 1.0}), {})
