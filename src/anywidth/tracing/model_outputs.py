"""Outputs of a model by name, and which of them may be narrower at a narrow width.

    ModelOutput(logits=..., cache=DynamicCache(layers=[...]))    ->    "logits", "cache.layers.0.keys", ...
    (scores, {"features": [a, b]})                                         ->    "0", "1.features.0", "1.features.1"

Channels of an output stay, as whoever takes it relies on its size. Some outputs are bookkeeping, though: a cache that goes back into the
same model, hidden states and attentions to be looked at. They may shrink.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.errors import TraceError, unknown_name

FreeOutputs = Sequence[str] | Callable[[str, Tensor], bool]
"""Names or glob patterns of outputs, or a function of an output's name and tensor."""

_BOOKKEEPING = (
    "*cache",
    "past_key_values",
    "cache_params",
    "mems",
    "state",
    "*hidden_states",
    "*attentions",
    "encoder_last_hidden_state",
    "*_model_output",
)
_BESIDE_LOGITS = ("last_hidden_state", "pooler_output")


def named_tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dicts, lists, tuples and objects with fields, by the way that leads to them."""
    yield from _named(value, name, set())


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in nested dicts, lists, tuples and objects with fields (model outputs)."""
    return [t for _, t in named_tensors(value)]


def _named(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    children = _children(value)
    if not children or id(value) in seen:  # an object may lead back to itself
        return
    seen = seen | {id(value)}
    for key, child in children:
        yield from _named(child, f"{name}.{key}" if name else str(key), seen)


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple | set):
        names = getattr(value, "_fields", range(len(value)))
        return list(zip(names, value, strict=True))
    if hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module | type):
        return list(vars(value).items())
    return []


def free_names(out: Any, free: FreeOutputs = (), known: Iterable[str] = ()) -> set[str]:
    """Names of the outputs that may shrink: those of `free`, and what Hugging Face models return for bookkeeping.

    Args:
        known: outputs that were free in an earlier run; a name of `free` may be that of one of these, and not come out this time.

    Raises:
        TraceError: a name or pattern that matches no output.
    """
    tensors = dict(named_tensors(out))
    if callable(free):
        chosen = {n for n, t in tensors.items() if free(n, t)}
    else:
        chosen = set()
        for pattern in [free] if isinstance(free, str) else free:
            hits = _matching(tensors, pattern)
            if not hits and not _matching(known, pattern):
                raise TraceError(
                    unknown_name("output", pattern, tensors)
                    + "; free_outputs takes names or glob patterns of outputs."
                )
            chosen |= hits
    return chosen | _bookkeeping(out, tensors)


def _matching(names: Iterable[str], pattern: str) -> set[str]:
    return {n for n in names if any(fnmatch.fnmatchcase(p, pattern) for p in _prefixes(n))}


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _bookkeeping(out: Any, names: dict[str, Tensor]) -> set[str]:
    """Caches, hidden states and attentions of a Hugging Face output, as long as something else comes out, too."""
    if not any(
        c.__name__ == "ModelOutput" and c.__module__.startswith("transformers.") for c in type(out).__mro__
    ):
        return set()
    fields = {n.partition(".")[0] for n in names}
    patterns = _BOOKKEEPING + (_BESIDE_LOGITS if any("logits" in f for f in fields) else ())
    free = {f for f in fields if any(fnmatch.fnmatchcase(f, p) for p in patterns)}
    if free == fields:
        return set()
    return {n for n in names if n.partition(".")[0] in free}
