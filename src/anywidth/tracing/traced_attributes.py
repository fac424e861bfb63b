"""Numbers of modules remember their name while the model is traced: attributes, and those of configs that modules hold.

self.num_heads = 8                 -> TracedInt(8, Attribute("block.attn", "num_heads"))
self.scale = 0.125                 -> TracedFloat(0.125, Number("block.attn", "scale"))
self.config.hidden_size = 64       -> TracedInt(64, Attribute("", "config.hidden_size")), whichever module reads it
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from anywidth.tracing.opaque_modules import open_modules
from anywidth.tracing.symbolic_sizes import Attribute, Number, TracedFloat, TracedInt

_GEOMETRY = {"stride", "padding", "dilation", "kernel_size", "output_padding", "output_size"}
CONFIGS = ("config", "cfg", "args", "hparams")
"""Attributes in which modules keep the settings that they were made from."""


def _traced(value: Any, module: str, name: str) -> Any:
    """`value` with its numbers made traceable, or None if it holds none."""
    if isinstance(value, bool) or name in _GEOMETRY or name == "training":
        return None
    if isinstance(value, int):
        return TracedInt(value, Attribute(module, name, None, value)) if abs(value) < 2**31 else None
    if type(value) is float:
        return TracedFloat(value, Number(module, name)) if value > 0 else None
    plain = type(value) in (tuple, list) and len(value) > 0
    if plain and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return type(value)(TracedInt(v, Attribute(module, name, i, v)) for i, v in enumerate(value))
    return None


def configs_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Objects with settings that a module holds, by the name of the attribute."""
    for name in CONFIGS:
        value = vars(module).get(name)
        if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
            yield name, value


@contextmanager
def traced_attributes(model: nn.Module) -> Iterator[None]:
    """Numbers among the attributes of all modules and of their configs remember their name inside this context."""
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    known: set[int] = set()

    def trace(attributes: dict[str, Any], path: str, prefix: str = "") -> None:
        for name, value in list(attributes.items()):
            if not name.startswith("_") and (traced := _traced(value, path, prefix + name)) is not None:
                replaced.append((attributes, name, value))
                attributes[name] = traced

    try:
        for path, module in open_modules(model).items():
            trace(vars(module), path)
            for name, config in configs_of(module):
                if id(config) not in known:
                    known.add(id(config))
                    trace(vars(config), path, f"{name}.")
        yield
    finally:
        for attributes, name, value in replaced:
            attributes[name] = value
