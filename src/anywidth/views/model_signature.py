"""A forward with the signature of another module's: tools choose a batch's columns, or generate code, by it."""

from __future__ import annotations

import inspect
from typing import Any


class ModelForward:
    """`forward` of a network that wraps a model: calls the owner's `_run`, with the signature of the model's forward."""

    def __get__(self, owner: Any, owner_type: type) -> Any:
        return _of_class if owner is None else _Forward(owner)


def _of_class(owner: Any, *args: Any, **kwargs: Any) -> Any:
    """As a function of the class: `type(net).forward(net, x)`."""
    return owner._run(*args, **kwargs)


class _Forward:
    """The bound method."""

    def __init__(self, owner: Any) -> None:
        self.__self__ = owner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__self__._run(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__self__.model.forward)
