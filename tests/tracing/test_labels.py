"""Labels and sets of labels."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from anywidth.tracing.labels import FIXED, Ledger, Partition, as_shadow, varying


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.integers(1, 5))
def test_partition_is_a_union_find(pairs, steps):
    """Against sets merged one by one; the name of a set is its smallest label."""
    sets = [{i} for i in range(20)]
    for a, b in pairs:
        x, y = (next(s for s in sets if v in s) for v in (a, b))
        if x is not y:
            sets.remove(y)
            x |= y
    part = Partition(20)
    for chunk in np.array_split(np.array(pairs, int).reshape(-1, 2), steps):
        before = part.name.copy()
        changed = part.merge(chunk[:, 0], chunk[:, 1])
        assert changed == (not np.array_equal(before, part.name))
    assert part.name.tolist() == [min(next(s for s in sets if i in s)) for i in range(20)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(0, 2**16))
def test_compact_keeps_what_varies(dims, seed):
    shape = [d + 2 for d in dims]
    generator = torch.Generator().manual_seed(seed)
    flat = [bool(torch.rand((), generator=generator) < 0.5) for _ in shape]
    small = [1 if f else n for f, n in zip(flat, shape, strict=True)]
    labels = torch.arange(1, 1 + int(np.prod(small))).reshape(small)
    for full in (labels.expand(shape), labels.expand(shape).contiguous()):
        got = as_shadow(full)
        if all(flat):
            assert got is None
        else:
            assert torch.equal(got, labels)
            assert varying(got) == [d for d, f in enumerate(flat) if not f]


def test_compact_of_nothing():
    assert as_shadow(torch.zeros(2, 0, dtype=torch.int64)) is None


def test_fresh_labels_never_repeat():
    ledger = Ledger()
    a, b = ledger.fresh(3, tensor="w"), ledger.fresh(2)
    assert (a.tolist(), b.tolist()) == ([1, 2, 3], [4, 5])
    assert [(x.start, x.size, x.tensor) for x in ledger.blocks] == [(1, 3, "w"), (4, 2, None)]
    assert FIXED not in (*a.tolist(), *b.tolist())


def test_frozen_labels_are_dead():
    ledger = Ledger()
    a, b = ledger.fresh(3), ledger.fresh(3)
    ledger.freeze(a, "because", "here")
    ledger.freeze(a * 0, "nothing to freeze", "here")
    assert not ledger.alive(a)
    assert ledger.alive(b)
    assert [(f.reason, f.where) for f in ledger.freezes] == [("because", "here")]
