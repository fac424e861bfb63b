"""Functions that a compiled graph takes as constants."""

from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable)


def assume_constant_result(function: _Function) -> _Function:
    """`torch.compiler.assume_constant_result`, without importing dynamo.

    The public decorator sets one attribute, and imports `torch._dynamo` to do so, which takes as long as torch itself. Without
    the attribute a compiled view would trace into the function: a graph break, refused under `fullgraph`.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function
