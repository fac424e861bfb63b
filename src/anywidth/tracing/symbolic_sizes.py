"""Integers that remember where they came from.

While a model is traced, the integer attributes of its modules and the sizes it reads from labelled tensors are
`TracedInt`s. Arithmetic on them builds an expression, so that a reshape to `(B, N, self.num_heads, C // self.num_heads)`
tells which attribute must follow which channels when the network narrows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DimSize:
    """The size of dimension `dim` of a tensor with these shadows (those that vary along it)."""

    shadows: tuple[Tensor, ...]
    dim: int
    size: int

    def vectors(self) -> list[np.ndarray]:
        """Labels along the dimension, one vector per shadow."""
        return [
            s.numpy()[*(slice(None) if d == self.dim else 0 for d in range(s.ndim))] for s in self.shadows
        ]


def beside(shadow: Tensor, dim: int) -> bool:
    """Whether labels change along other dimensions too."""
    return any(n > 1 for d, n in enumerate(shadow.shape) if d != dim)


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module, or one entry of a tuple or list of them."""

    module: str
    name: str
    index: int | None
    value: int

    def __str__(self) -> str:
        entry = "" if self.index is None else f"[{self.index}]"
        return f"{self.module or '<root>'}.{self.name}{entry}"


@dataclass(frozen=True, eq=False)
class Binary:
    """`left op right`, with op one of + - * //."""

    op: str
    left: Expression
    right: Expression


Expression = int | DimSize | Attribute | Binary


def expression(value: int) -> Expression:
    return value.source if isinstance(value, TracedInt) else int(value)


def leaves(tree: Expression) -> Iterator[DimSize | Attribute]:
    if isinstance(tree, Binary):
        yield from leaves(tree.left)
        yield from leaves(tree.right)
    elif not isinstance(tree, int):
        yield tree


def _binary(op: str, apply: Callable[[int, int], int], *, swap: bool = False) -> Callable[[Any, Any], Any]:
    def method(self: TracedInt, other: Any) -> Any:
        if isinstance(other, bool) or not isinstance(other, int):
            plain = getattr(int, f"__{'r' if swap else ''}{_NAMES[op]}__")
            return plain(int(self), other)
        pair = (other, self) if swap else (self, other)
        return TracedInt(
            apply(int(pair[0]), int(pair[1])), Binary(op, expression(pair[0]), expression(pair[1]))
        )

    return method


_NAMES = {"+": "add", "-": "sub", "*": "mul", "//": "floordiv"}


COMPARED: ContextVar[list[tuple[Expression, Expression]] | None] = ContextVar("COMPARED", default=None)
"""Equalities that the model's code checked, in a trace of this thread."""
READ_AS_FLOAT: ContextVar[dict[Attribute, None] | None] = ContextVar("READ_AS_FLOAT", default=None)
"""Attributes that the model's code computed a float from (`self.dim ** -0.5`), in a trace of this thread."""


class TracedInt(int):
    """An int with an expression of its origin; everything but + - * // gives plain numbers."""

    source: Expression

    def __new__(cls, value: int, source: Expression) -> TracedInt:
        self = super().__new__(cls, value)
        self.source = source
        return self

    # (6 * heads).source == Binary("*", 6, Attribute(heads)); int's own operators would drop the origin. Only these four
    # are traced: a size that goes through / or math.sqrt becomes a plain number (see `derived_numbers` for what it multiplies), and
    # what it counts is frozen.
    __add__ = _binary("+", int.__add__)
    __radd__ = _binary("+", int.__add__, swap=True)
    __sub__ = _binary("-", int.__sub__)
    __rsub__ = _binary("-", int.__sub__, swap=True)
    __mul__ = _binary("*", int.__mul__)
    __rmul__ = _binary("*", int.__mul__, swap=True)
    __floordiv__ = _binary("//", int.__floordiv__)
    __rfloordiv__ = _binary("//", int.__floordiv__, swap=True)
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other)  # type: ignore[operator]
        # `assert C == self.embed_dim` ties an attribute that no shape ever reads; only equalities that hold count.
        compared = COMPARED.get()
        if equal is True and isinstance(other, TracedInt) and compared is not None:
            compared.append((self.source, other.source))
        return equal

    def __ne__(self, other: object) -> bool:
        equal = self == other
        return equal if equal is NotImplemented else not equal

    def __float__(self) -> float:  # math.sqrt(n) asks for this one
        return float(self._read())

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return pow(self._read(), other, modulus)

    def __truediv__(self, other: Any) -> Any:
        return self._read() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self._read()

    def _read(self) -> int:
        """The plain number; that a float may be made of it is noted."""
        noted = READ_AS_FLOAT.get()
        if noted is not None:
            noted.update((leaf, None) for leaf in leaves(self.source) if isinstance(leaf, Attribute))
        return int(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def __deepcopy__(self, memo: dict) -> int:
        return int(self)


@dataclass(frozen=True)
class Number:
    """A float attribute of a module, or a buffer of one element."""

    module: str
    name: str


class TracedFloat(float):
    """A float that remembers which attribute it is; arithmetic gives plain numbers."""

    number: Number

    def __new__(cls, value: float, number: Number) -> TracedFloat:
        self = super().__new__(cls, value)
        self.number = number
        return self

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)

    def __deepcopy__(self, memo: dict) -> float:
        return float(self)


class Form:
    """A size as `constant + sum of coefficient x (set kept?)` over label sets; what an expression must equal."""

    def __init__(self, constant: int, terms: dict[int, int] | None = None) -> None:
        self.constant = constant
        self.terms = {a: c for a, c in (terms or {}).items() if c}

    @staticmethod
    def of(labels: np.ndarray) -> Form:
        values, counts = np.unique(labels, return_counts=True)
        terms = dict(zip(values.tolist(), counts.tolist(), strict=True))
        return Form(terms.pop(0, 0), terms)

    @property
    def value(self) -> int:
        return self.constant + sum(self.terms.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and self.constant == other.constant and self.terms == other.terms

    __hash__ = None  # type: ignore[assignment]

    def renamed(self, name: np.ndarray) -> Form:
        """The same size after label sets were merged."""
        terms: dict[int, int] = {}
        for atom, c in self.terms.items():
            new = int(name[atom])
            terms[new] = terms.get(new, 0) + c
        return Form(self.constant + terms.pop(0, 0), terms)

    def combine(self, other: Form, sign: int) -> Form:
        terms = dict(self.terms)
        for atom, c in other.terms.items():
            terms[atom] = terms.get(atom, 0) + sign * c
        return Form(self.constant + sign * other.constant, terms)

    def scale(self, factor: int) -> Form:
        return Form(self.constant * factor, {a: c * factor for a, c in self.terms.items()})

    def divide(self, other: Form) -> Form | None:
        """Exact quotient: by a number, or by a form of the same shape; None where there is no such form."""
        # (64 a + 64 b) / 64 -> a + b; (4 a + 4 b) / (a + b) -> 4, as it is at every width; (3 a) / 2 -> None.
        if not other.terms:
            d = other.constant
            coefficients = [self.constant, *self.terms.values()]
            if d == 0 or any(c % d for c in coefficients):
                return None
            return Form(self.constant // d, {a: c // d for a, c in self.terms.items()})
        if other.value == 0 or self.value % other.value:
            return None
        ratio = self.value // other.value
        return Form(ratio) if other.scale(ratio) == self else None

    def times(self, other: Form) -> Form | None:
        if not other.terms:
            return self.scale(other.constant)
        if not self.terms:
            return other.scale(self.constant)
        return None


def evaluate(tree: Expression, known: Callable[[DimSize | Attribute], Form | None]) -> Form | None:
    """The form of an expression; None if a leaf is unknown or the result has no linear form."""
    if isinstance(tree, int):
        return Form(tree)
    if not isinstance(tree, Binary):
        return known(tree)
    a, b = evaluate(tree.left, known), evaluate(tree.right, known)
    if a is None or b is None:
        return None
    if tree.op == "*":
        return a.times(b)
    if tree.op == "//":
        return a.divide(b)
    return a.combine(b, 1 if tree.op == "+" else -1)


def solve_for(
    tree: Expression, unknown: Attribute, target: Form, known: Callable[[DimSize | Attribute], Form | None]
) -> Form | None:
    """The form that `unknown` must have for `tree` to equal `target`; it must occur in `tree` exactly once."""
    # Undo one operation at a time, from the outside in:
    #     heads * 64 = 64 a + 64 b + 64 c + 64 d    ->    heads = a + b + c + d
    #     2 * heads - 3 = 4 a + 1    ->    2 * heads = 4 a + 4    ->    heads = 2 a + 2
    while isinstance(tree, Binary):
        in_left = unknown in list(leaves(tree.left))
        operand = evaluate(tree.right if in_left else tree.left, known)
        if operand is None or (in_left and unknown in list(leaves(tree.right))):
            return None
        moved: Form | None
        if tree.op == "+":
            moved = target.combine(operand, -1)
        elif tree.op == "-":
            moved = target.combine(operand, 1) if in_left else operand.combine(target, -1)
        elif tree.op == "*":
            moved = target.divide(operand)
        else:
            moved = target.times(operand) if in_left else operand.divide(target)
        if moved is None:
            return None
        target, tree = moved, (tree.left if in_left else tree.right)
    return target if tree == unknown else None
