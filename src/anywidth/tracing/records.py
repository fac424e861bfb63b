"""What a trace writes down for later: products, numbers that sizes must be, numbers that were computed from sizes."""

from __future__ import annotations

from dataclasses import dataclass

from anywidth.tracing.symbolic_sizes import DimSize, Expression, Number


@dataclass(frozen=True, kw_only=True)
class Contraction:
    """One multiply-add loop nest: the product of the sizes is its MACs, the product of `written` its output."""

    module: str
    sizes: tuple[int | DimSize, ...]
    written: tuple[int | DimSize, ...]
    pool: bool = False


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A number the model's code passed to an operation, and the size it must have at every width."""

    expression: Expression
    needed: DimSize | int
    where: str
    what: str


@dataclass(frozen=True)
class Length:
    """A sum or a norm along a dimension, or vectors divided by theirs: a number beside it may be this power of that size."""

    size: int | DimSize
    power: float


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A number that is a power of a size, by which a tensor with that size was multiplied.

    Attributes:
        sure: whether that tells already that the number was computed from the size; else a product of two activations has to sum it.
    """

    number: Number
    size: DimSize
    power: float
    sure: bool
