"""Functions with many settings: a frozen config holds them, and they may be given one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C")


def takes_fields_of(config_class: type) -> Callable[[_F], _F]:
    """Show the fields of a config among the parameters of a function that takes them as `**settings`.

    So `help()`, editors and `inspect.signature` say what may be given:

        f(net, config=None, **settings)  ->  f(net, config=None, *, evals=None, batch=2, ...)
    """

    def show(function: _F) -> _F:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        others = [
            p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD and p.name != "settings"
        ]
        shown = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=f.default if f.default is not MISSING else f.default_factory(),  # pyright: ignore[reportCallIssue]
                annotation=f.type,
            )
            for f in fields(config_class)
            if f.init
        ]
        function.__signature__ = signature.replace(parameters=[*named, *shown, *others])  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return show


def configured(config_class: type[_C], config: _C | None, settings: Mapping[str, Any]) -> _C:
    """A config with some settings in the place of its own; without one, in the place of the defaults.

    Raises:
        TypeError: another kind of config, or a setting that it does not have.
    """
    if config is not None and not isinstance(config, config_class):
        raise TypeError(
            f"expected a {config_class.__name__}, got {type(config).__name__}; give settings by their names"
        )
    return replace(config, **settings) if config is not None else config_class(**settings)  # pyright: ignore[reportArgumentType]
