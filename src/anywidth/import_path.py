"""A function named in a recipe: one of ours, or the user's own as "package.module:function"."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from anywidth.errors import RecipeError, unknown_name


def find(kind: str, name: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The function behind a name.

    Raises:
        RecipeError: no such name, module or function.
    """
    if name in known:
        return known[name]
    module, colon, function = name.partition(":")
    if not colon or not all((module, function)) or module.startswith("."):
        raise RecipeError(
            f"{unknown_name(kind, name, known)}; your own function is named as 'package.module:function'"
        )
    try:
        user_function = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not callable(user_function):
        raise RecipeError(f"{kind} {name!r} is a {type(user_function).__name__}, not a function")
    return user_function


def call_with(
    kind: str, name: str, function: Callable[..., Any], offered: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Call `function` with those of `offered` that it takes, and all of `options`.

    Raises:
        RecipeError: an option that it does not take, or a value that it refuses.
    """
    # offered {"low": 0.25, "high": 1.0, "grid": None} for f(*, low, high): called with low and high only.
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in parameters:
            if takes_any:
                continue
            raise RecipeError(unknown_name(f"option of the {kind} {name!r}", option, parameters))
        default = parameters[option].default
        if isinstance(default, float) and not isinstance(options[option], int | float):
            raise RecipeError(
                f"option {option!r} of the {kind} {name!r} is a number, like {default}; got {options[option]!r}"
            )
    taken = {key: value for key, value in offered.items() if key in parameters}
    return function(**{**taken, **options})
