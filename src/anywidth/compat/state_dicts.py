"""Entries of a module's state dict that are neither parameters nor buffers."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

SAVE = "_save_to_state_dict"
"""The method in which a module writes its own tensors, without its children's, into a state dict."""


class StateDictEntries:
    """Mixed in before `nn.Module`: a module with entries of a state dict under names of any form.

    The public ways have other formats: `get_extra_state` saves one value under one fixed name, which is neither a tensor per
    entry nor readable without this package; hooks on state dicts are not told of `keep_vars`, and put their entries after
    those of the children.
    """

    __slots__ = ()

    def save_entries_(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:
        """Add the entries of this module, whose names start with `prefix`."""

    def load_entries_(
        self, state_dict: Mapping[str, Any], prefix: str, unexpected: list[str], errors: list[str]
    ) -> None:
        """Take the entries of this module, before its children take theirs.

        Args:
            state_dict: of the whole network.
            prefix: of this module's names.
            unexpected: names that no module knows: those of these entries must be taken off the list.
            errors: messages to which others may be added; any of them fails the load.
        """

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        parent: Any = super()
        parent._save_to_state_dict(destination, prefix, keep_vars)
        self.save_entries_(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        parent: Any = super()
        parent._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self.load_entries_(state_dict, prefix, unexpected_keys, error_msgs)
