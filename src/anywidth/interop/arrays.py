"""numpy arrays in pickled files, without numpy's own unpickling: only numbers in plain layouts, and nothing is called."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_CODES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")


class _Code:
    """The type of an array's numbers, as a file names it."""

    def __init__(self, code: str, *flags: Any) -> None:
        if code not in _CODES:
            raise ValueError(f"an array of {code!r}; expected numbers ({', '.join(_CODES)})")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = "<" if state[1] in ("<", "=", "|") else ">"

    def read(self, raw: bytes) -> np.ndarray:
        dtype = np.dtype(self.order + self.code)
        return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))


class Array:
    """An array found in a file.

    Attributes:
        values: its numbers, as many dimensions as there.
    """

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, code, by_columns, raw = state
        numbers = code.read(raw)
        if len(numbers) != math.prod(shape):
            raise ValueError(f"an array of shape {shape} with {len(numbers)} numbers")
        self.values = numbers.reshape(shape, order="F" if by_columns else "C")


def _blank(*empty: Any) -> Array:
    return Array()


def _scalar(code: _Code, raw: bytes) -> float | int:
    return code.read(raw)[0].item()


NAMES = (
    (_Code, "numpy.dtype"),
    (Array, "numpy.ndarray"),
    *((_blank, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)
"""What stands in for the names that arrays of numpy 1 and 2 have in files, as `torch.serialization.safe_globals` takes it."""
