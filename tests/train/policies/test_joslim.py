import dataclasses

import pytest
import torch

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, WidthError
from anywidth.models import SmallResNet
from anywidth.search import Bayes
from anywidth.train import Drawn, FitConfig, Joslim, fit_
from anywidth.train.log import read

CONFIG = FitConfig(epochs=3, lr=0.05, save_every=3, log_every=2)


class Counting:
    """A proposer that proposes what it is told, and remembers what it was asked."""

    def __init__(self, widths):
        self.widths, self.given, self.made = widths, [], 0

    def identity(self):
        return {"kind": "counting"}

    def to_measure(self):
        return self.widths[: self.made]

    def measured_(self, errors):
        self.given.append(list(errors))

    def next_(self):
        self.made += 1
        return [self.widths[self.made - 1]]

    def state(self):
        return {"made": self.made}

    def load_(self, state):
        self.made = state["made"]


@pytest.fixture
def net() -> Elastic:
    torch.manual_seed(0)
    return Elastic(SmallResNet(channels=(4, 8)), torch.zeros(1, 1, 8, 8), widths=[0.25, 1.0])


def batches(epoch, first):
    random = torch.Generator().manual_seed(epoch)
    images, labels = (
        torch.randn(5, 8, 1, 8, 8, generator=random),
        torch.randint(0, 10, (5, 8), generator=random),
    )
    return list(zip(images, labels, strict=True))[first:]


def test_it_proposes_every_tau_steps_and_trains_between_the_ends(net):
    widths = [net.space.uniform(r) for r in (0.3, 0.5, 0.7)]
    measured = []
    policy = Joslim(
        Counting(widths), lambda ws: measured.append(list(ws)) or [0.5] * len(ws), tau=4, low=0.25
    )
    drawn = []
    for step in range(10):
        news = policy.advance_(step)
        assert (news is not None) == (step % 4 == 0)
        drawn.append(policy(torch.Generator()))
    assert [d[1] for d in drawn] == [widths[0]] * 4 + [widths[1]] * 4 + [widths[2]] * 2
    assert {(d[0], d[2]) for d in drawn} == {(1.0, 0.25)}
    assert measured == [widths[:1], widths[:2]]  # nothing is known at the first step
    assert policy.proposer.given == [[0.5], [0.5, 0.5]]


def joslim(net):
    bayes = Bayes(net, prior_points=2, history=6, seed=4)
    return Joslim(bayes, lambda ws: [1 / sum(w.kept) for w in ws], tau=2, low=0.25)


def test_a_training_that_was_stopped_ends_with_the_same_widths_and_weights(net, tmp_path):
    class StopError(Exception):
        pass

    start = {k: v.clone() for k, v in net.state_dict().items()}
    (tmp_path / "whole").mkdir()
    whole = joslim(net)
    fit_(net, batches, whole, CONFIG, seed=1, run=tmp_path / "whole")
    expected = {k: v.clone() for k, v in net.state_dict().items()}
    (tmp_path / "cut").mkdir()
    for stop in (4, 8, 11, None):
        net.load_state_dict(start)

        def report(progress, stop=stop):
            if progress.step == stop:
                raise StopError

        cut = joslim(net)
        try:
            fit_(net, batches, cut, CONFIG, seed=1, run=tmp_path / "cut", report=report)
        except StopError:
            continue
    assert cut.proposer.state() == whole.proposer.state()
    assert len(whole.proposer.trials) == 16
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    proposed = [[r["proposed"] for r in read(tmp_path / run / "log.jsonl") if r["event"] == "policy"] for run in ("whole", "cut")]  # fmt: skip
    assert proposed[0] == proposed[1]
    assert len(proposed[0]) == 8


def test_a_checkpoint_of_another_policy_is_refused(net, tmp_path):
    fit_(net, batches, joslim(net), CONFIG, seed=1, run=tmp_path)
    other = joslim(net)
    other.tau = 3
    with pytest.raises(CheckpointError, match="policy="):
        fit_(net, batches, other, CONFIG, seed=1, run=tmp_path)


def test_the_history_is_measured_with_the_final_weights(net, tmp_path):
    policy = joslim(net)
    fit_(net, batches, policy, dataclasses.replace(CONFIG, epochs=2), seed=1, run=tmp_path)
    asked = policy.proposer.to_measure()
    assert {m.width for m in policy.proposer.present_front().members} <= set(asked)
    assert all(t.error is not None for t in policy.proposer.trials)


def test_drawn_widths_are_random_or_of_a_pool(net):
    drawn = Drawn(net.space, count=3, low=0.5, seed=2)
    first, second = drawn.next_(), drawn.next_()
    assert len({w.kept for w in [*first, *second]}) > 3
    low = net.space.uniform(0.5).kept
    assert all(a <= k for w in first for a, k in zip(low, w.kept, strict=True))
    again = Drawn(net.space, count=3, low=0.5, seed=2)
    again.load_({"calls": 1})
    assert again.next_() == second
    pool = [net.space.uniform(r) for r in (0.25, 0.5)]
    found = Drawn(net.space, count=20, low=0.25, pool=pool).next_()
    assert set(found) == set(pool)


def test_what_cannot_be(net):
    with pytest.raises(WidthError, match="expected tau >= 1"):
        Joslim(Counting([]), lambda ws: [], tau=0, low=0.25)
    for options in ({"count": 0, "low": 0.5}, {"count": 1, "low": 0.0}, {"count": 1, "low": 0.5, "pool": []}):
        with pytest.raises(WidthError, match="drawn widths"):
            Drawn(net.space, **options)
