"""What the two modes see: operations without a rule, rules that fail, and sizes that remember where they come from."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from anywidth.tracing import modes
from anywidth.tracing.modes import LabelMode, SizeMode
from anywidth.tracing.symbolic_sizes import DimSize, TracedInt
from anywidth.tracing.trace_state import Walk
from label_walks import walk_of
from oracles import assert_narrow, groups, rand, randomized


@torch.library.custom_op("anywidth_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.flip(-1) * 2


mystery.register_autograd(lambda ctx, grad: grad.flip(-1) * 2)


class Inner(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "custom":
            return mystery(x)
        return torch.linalg.svdvals(x)[:, None] * x[:, :1] + x


class WithInner(nn.Module):
    def __init__(self, kind: str, a: int = 8, b: int = 6):
        super().__init__()
        self.a, self.inner, self.b, self.head = nn.Linear(3, a), Inner(kind), nn.Linear(a, b), nn.Linear(b, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.inner(self.a(x))))


def test_an_unknown_operation_freezes_what_it_touches_and_is_reported():
    net = Elastic(randomized(WithInner("custom")), rand(4, 3))
    assert groups(net) == {"b": (6, 1)}
    assert net.space.unknown == ("anywidth_tests::mystery in inner",)
    reasons = {(f.tensor, f.axis): f.reason for f in net.space.frozen}
    assert reasons["a.weight", 0] == "unknown operation (anywidth_tests::mystery in inner)"
    assert ("b.weight", 0) not in reasons
    assert "no rule for anywidth_tests::mystery in inner: the channels it touches are frozen" in str(
        net.space
    )
    assert_narrow(net, {"b": 4}, WithInner("custom", 8, 4), rand(4, 3))


def test_what_an_unknown_operation_gives_is_named_where_it_meets_channels():
    class After(WithInner):
        def forward(self, x: Tensor) -> Tensor:
            hidden = 2 * self.inner(self.a(x))
            return self.head(self.b(hidden))

    net = Elastic(randomized(After("custom")), rand(4, 3))
    reasons = {(f.tensor, f.axis): f.reason for f in net.space.frozen}
    assert reasons["b.weight", 1] == (
        "meets what an unknown operation gives, anywidth_tests::mystery in inner (addmm in b)"
    )


def test_an_unknown_operation_without_channels_is_no_matter():
    class Batch(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.a, self.b = nn.Linear(3, width), nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(mystery(x)))

    net = Elastic(randomized(Batch(8)), rand(4, 3))
    assert net.space.unknown == ()
    assert_narrow(net, {"a": 3}, Batch(3), rand(4, 3))


def labelled() -> tuple[Walk, Tensor]:
    walk, (a,) = walk_of(3)
    x = torch.arange(6.0).view(2, 3)
    walk.set(x, [a.view(1, 3)])
    return walk, x


def test_sizes_remember_their_channels():
    walk, x = labelled()
    with SizeMode(walk):
        rows, columns = x.shape
        sizes = [x.size(1), x.size(dim=-1), x.size()[1], columns]
        length, count = len(x), x.numel()
    assert (rows, length) == (2, 2)
    assert type(rows) is int
    for size in sizes:
        assert size == 3
        assert isinstance(size, TracedInt)
        assert isinstance(size.source, DimSize)
        assert size.source.dim == 1
    assert count == 6
    assert isinstance(count, TracedInt)


def test_sizes_of_other_tensors_are_plain():
    walk, _ = labelled()
    with SizeMode(walk):
        assert type(torch.zeros(2, 3).shape[1]) is int


def test_labels_follow_operations_and_used_parameters_are_noted():
    walk, x = labelled()
    weight = torch.ones(1)
    with LabelMode(walk, {id(weight): "weight"}):
        y = (x * weight).t()
    assert [s.tolist() for s in walk.shadows(y)] == [[[1], [2], [3]]]
    assert "weight" in walk.used


def test_a_rule_that_fails_freezes_what_it_touches(monkeypatch, caplog):
    def broken(walk, func, args, kwargs, out):
        raise ZeroDivisionError("no")

    monkeypatch.setattr(modes, "rule_for", lambda func: broken)
    walk, x = labelled()
    with caplog.at_level(logging.WARNING), LabelMode(walk, {}):
        torch.neg(x)
    assert list(walk.unknown) == [("neg", "")]
    assert [(f.reason, f.labels.tolist()) for f in walk.ledger.freezes] == [
        ("the rule failed (ZeroDivisionError)", [1, 2, 3])
    ]
    assert "failed: no" in caplog.text


def test_sizes_that_are_not_understood_freeze_what_they_touch(monkeypatch, caplog):
    def broken(*args):
        raise ValueError("no")

    monkeypatch.setattr(modes, "observe", broken)
    walk, x = labelled()
    with caplog.at_level(logging.WARNING), SizeMode(walk):
        F.relu(x)
    assert [f.reason for f in walk.ledger.freezes] == ["sizes not understood (ValueError)"]
    assert "not understood: no" in caplog.text
