"""Nested lists, tuples and dicts of tensors."""

from __future__ import annotations

from torch.utils._pytree import tree_map_only

map_only = tree_map_only
"""`map_only(Tensor, function, value)`: nested containers with `function` applied to the leaves of a class.

It knows named tuples, ordered and default dicts, and every class that was registered with torch, as the outputs of models
are. Torch has no public module of the kind yet.
"""
