"""Command-line arguments in pickled files, without argparse: their values are kept, and nothing is called."""

from __future__ import annotations

from typing import Any


class Arguments:
    """What an `argparse.Namespace` in a file held.

    Attributes:
        values: name -> value.
    """

    values: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.values = dict(state)


NAMES = ((Arguments, "argparse.Namespace"),)
"""What stands in for its name, as `torch.serialization.safe_globals` takes it."""
