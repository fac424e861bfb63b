"""Train once, run at any width.

Everything is loaded when it is first used, so that `import anywidth` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anywidth import (
        cost,
        data,
        detect,
        errors,
        export,
        gating,
        interop,
        models,
        prune,
        recipe,
        search,
        tracing,
        train,
        workflows,
    )
    from anywidth.elastic import Elastic
    from anywidth.reorder import reorder_
    from anywidth.space.channel_space import ChannelSpace
    from anywidth.space.groups import ChannelGroup
    from anywidth.space.width import Width
    from anywidth.store import load

__version__ = "0.1.0"

_MODULE_OF = {
    "ChannelGroup": "anywidth.space.groups",
    "ChannelSpace": "anywidth.space.channel_space",
    "Elastic": "anywidth.elastic",
    "Width": "anywidth.space.width",
    "load": "anywidth.store",
    "reorder_": "anywidth.reorder",
}

__all__ = [
    "ChannelGroup",
    "ChannelSpace",
    "Elastic",
    "Width",
    "__version__",
    "cost",
    "data",
    "detect",
    "errors",
    "export",
    "gating",
    "interop",
    "load",
    "models",
    "prune",
    "recipe",
    "reorder_",
    "search",
    "tracing",
    "train",
    "workflows",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    elif name in __all__:
        value = import_module(f"anywidth.{name}")
    else:
        raise AttributeError(f"module 'anywidth' has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
