"""What can go wrong, by kind. Every message says where, what came, what was expected, and what to do."""

import difflib
from collections.abc import Iterable


class AnywidthError(Exception):
    """Base of every error this package raises on purpose; the command line turns it into one line and exit code 2."""


class TraceError(AnywidthError, RuntimeError):
    """The model could not be run on its example inputs, or not made elastic."""


class WidthError(AnywidthError, ValueError):
    """A width that does not exist for this network: out of range, of an unknown group, or not nested."""


class MeasurementError(AnywidthError, ValueError):
    """A measured error or loss that is not a finite number."""


class StatisticsError(AnywidthError, RuntimeError):
    """Evaluation at a width whose batch-norm statistics were never collected."""


class ViewError(AnywidthError, RuntimeError):
    """Something that cannot be done to a view, as its tensors are parts of the wide network's."""


class StaleViewError(ViewError):
    """A view of modules or tensors that the wide network no longer has."""


class CheckpointError(AnywidthError, ValueError):
    """A file that is truncated, foreign, or belongs to another model."""


class RecipeError(AnywidthError, ValueError):
    """A recipe with an unknown key, a wrong type or an impossible value."""


class DataError(AnywidthError, ValueError):
    """Images that are missing, unreadable, or not what the recipe says."""


class OrdinaryWeightsWarning(UserWarning):
    """Weights that were not trained at several widths became elastic: narrow widths predict next to nothing yet."""


def unknown_name(kind: str, name: object, known: Iterable[object]) -> str:
    """Text for a name that does not exist, with the nearest that does."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.3)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"unknown {kind} '{name}'{hint} (known: {listed or 'none'})"
