"""Numbers in the configs of Hugging Face models, as JSON, and the sizes of the models built from them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

Entry = tuple[str | int, ...]
"""The way to a number in a config as JSON: ("text_config", "hidden_size") or ("hidden_sizes", 2)."""
Place = tuple[str, str | int]
"""A dimension of a tensor by the tensor's name and number, or an integer attribute by the module's path and name."""

_NOT_SIZES = ("token_id", "vocab_size", "_layers", "max_position", "num_labels", "image_size", "patch_size", "dtype", "version")  # fmt: skip


def tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Name and tensor of all parameters and buffers."""
    return [*model.named_parameters(), *model.named_buffers()]


def listed(entries: Mapping[Entry, int]) -> str:
    """Entries as text: "hidden_size=32, text_config.num_heads=2"."""
    return (
        ", ".join(f"{'.'.join(map(str, e))}={v}" for e, v in entries.items())
        or "the config of the wide model"
    )


def entries_of(json: Any, way: Entry = ()) -> Iterator[tuple[Entry, int]]:
    """Numbers of a config that may be sizes."""
    items = json.items() if isinstance(json, dict) else enumerate(json) if isinstance(json, list) else ()
    for key, value in items:
        if isinstance(key, str) and any(part in key for part in _NOT_SIZES):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield (*way, key), value
        elif isinstance(value, dict | list):
            yield from entries_of(value, (*way, key))


def entry_value(json: Any, entry: Entry) -> int:
    """The number at an entry."""
    for key in entry:
        json = json[key]
    return json


def edited(json: Mapping[str, Any], values: Mapping[Entry, int]) -> dict[str, Any]:
    """A copy of a config with other numbers at these entries."""
    changed: Any = copy.deepcopy(dict(json))
    for entry, value in values.items():
        holder: Any = changed
        for key in entry[:-1]:
            holder = holder[key]
        holder[entry[-1]] = value
    return changed


def sizes_of(model: nn.Module) -> dict[Place, int]:
    """Dimensions of all tensors, and integer attributes of all modules."""
    sizes: dict[Place, int] = {}
    for name, t in tensors_of(model):
        sizes |= {(name, d): n for d, n in enumerate(t.shape) if n}
    for path, m in model.named_modules():
        for name, value in vars(m).items():
            if type(value) is int and value and not name.startswith("_"):
                sizes[f"{path}.", name] = value
    return sizes


def update_(config: Any, source: Any) -> None:
    """Numbers of a config, and of those inside it, as in another one; all that hold this object see it."""
    for name, value in vars(source).items():
        old = vars(config).get(name)
        if hasattr(value, "to_dict") and hasattr(old, "to_dict"):
            update_(old, value)
        elif not name.startswith("_") and isinstance(value, int | float | list | tuple) and value != old:
            vars(config)[name] = value
