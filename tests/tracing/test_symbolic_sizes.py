"""Integers that remember their origin."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anywidth.tracing.symbolic_sizes import Attribute, Binary, Form, TracedInt, evaluate, leaves, solve_for


def number(name: str, value: int) -> TracedInt:
    return TracedInt(value, Attribute("m", name, None, value))


def test_a_traced_integer_is_an_integer():
    n = number("n", 6)
    assert (n + 1, 1 + n, n - 1, 10 - n, n * 2, 2 * n, n // 4, 20 // n, n / 4, n % 4, -n) == (
        7,
        7,
        5,
        4,
        12,
        12,
        1,
        3,
        1.5,
        2,
        -6,
    )
    assert n == 6
    assert n != 7
    assert n < 7
    assert {n: 1}[6] == 1
    assert torch.zeros(n).shape == (6,)
    assert list(range(n)) == list(range(6))
    assert type(copy.deepcopy(n)) is type(pickle.loads(pickle.dumps(n))) is int
    assert n * 0.5 == 3.0
    assert n * True == 6


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_expressions_give_back_their_value(a, b, c):
    values = {"a": a, "b": b, "c": c}
    x, y, z = (number(n, v) for n, v in values.items())
    for traced, plain in (
        (x * y + z, a * b + c),
        ((x + y) * z - x, (a + b) * c - a),
        ((x * y) // y, a),
        (x * y * z // z, a * b),
    ):
        assert traced == plain
        form = evaluate(traced.source, lambda leaf: Form(values[leaf.name]))
        assert form is not None
        assert form.value == plain
        assert all(leaf.name in values for leaf in leaves(traced.source))


@pytest.mark.parametrize("op", ["+", "-", "*", "//"])
@pytest.mark.parametrize("left", [True, False])
def test_solving_for_an_attribute(op, left):
    """`unknown op other = target`, both ways round, where the unknown is 3 units of a group of 4."""
    unknown = Attribute("m", "n", None, 0)
    true = Form(0, {1: 3, 2: 3})
    other = {
        "+": Form(5),
        "-": Form(0, {1: 3, 2: 3, 3: 1}) if not left else Form(0),
        "*": Form(4),
        "//": Form(3),
    }[op]
    if op == "//" and not left:
        other = true.scale(7)
    tree = Binary(op, unknown, 0) if left else Binary(op, 0, unknown)
    pair = (true, other) if left else (other, true)
    target = {
        "+": lambda: pair[0].combine(pair[1], 1),
        "-": lambda: pair[0].combine(pair[1], -1),
        "*": lambda: pair[0].times(pair[1]),
        "//": lambda: pair[0].divide(pair[1]),
    }[op]()
    leaf = Attribute("m", "other", None, 0)
    tree = Binary(op, unknown, leaf) if left else Binary(op, leaf, unknown)
    assert solve_for(tree, unknown, target, lambda _: other) == true


def test_what_has_no_linear_form():
    x, y = Form(0, {1: 1}), Form(0, {2: 1})
    assert x.times(y) is None
    assert x.divide(y) is None
    assert Form(0, {1: 3}).divide(Form(2)) is None
    assert Form(1).divide(Form(0)) is None
    assert Form(0, {1: 4, 2: 4}).divide(Form(0, {1: 2, 2: 2})) == Form(2)
    unknown = Attribute("m", "n", None, 2)
    assert solve_for(Binary("*", unknown, unknown), unknown, Form(4), lambda leaf: None) is None
    assert evaluate(unknown, lambda leaf: None) is None


def test_forms_follow_merged_labels():
    form = Form.of(np.array([0, 0, 1, 2, 2, 3]))
    assert (form.constant, form.terms, form.value) == (2, {1: 1, 2: 2, 3: 1}, 6)
    assert form.renamed(np.array([0, 1, 1, 0])) == Form(3, {1: 3})
    assert form != Form(6)
    assert str(Attribute("", "sizes", 1, 3)) == "<root>.sizes[1]"
    assert str(Attribute("a.b", "heads", None, 3)) == "a.b.heads"
