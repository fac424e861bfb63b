"""What the modules of a view are made of, before any behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from torch import Tensor, nn

from anywidth.errors import StaleViewError, ViewError
from anywidth.views.packed_copies import Pack
from anywidth.views.slices import Slice

MISSING = object()


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class NormAt(Protocol):
    """A batch norm at one width, as its module in a view reads it."""

    bank: Any  # its `still`: whether norms stay in evaluation mode, whatever the mode of the network
    affine: bool  # whether it has a scale and shift of its own
    like_wide: bool  # whether it sees what it sees in the wide network
    tensors: dict[str, Tensor]
    names: dict[str, str]  # of the norm's tensors in `tensors`

    def ready(self) -> bool:
        """Whether it has statistics to evaluate with."""
        ...

    def parameter(self, name: str) -> Tensor | None:
        """What stands for an affine parameter of the wide network, None if nothing does."""
        ...

    def statistic(self, name: str, training: bool) -> Tensor | None:
        """What stands for a statistic of the wide network in a mode, None if nothing does."""
        ...

    def followed(self, name: str, wide: Tensor) -> Tensor:
        """A statistic of this width, where the wide network's is and of its type."""
        ...

    def require(self, norm: Any) -> None:
        """Raise if a norm of a view in evaluation mode has nothing to evaluate with."""
        ...


class Live:
    """State of a module of a view: slots, as the wide module's `__dict__` is shared. `ViewModule` has the methods."""

    __slots__ = (
        "_view_children",
        "_view_compiled",
        "_view_expected",
        "_view_given",
        "_view_kept",
        "_view_memo",
        "_view_norm",
        "_view_own",
        "_view_packs",
        "_view_path",
        "_view_shared",
        "_view_slices",
        "_view_wide",
    )

    if TYPE_CHECKING:
        _view_children: dict[str, Any]
        _view_compiled: Any
        _view_expected: dict[str, nn.Module | None]
        _view_forward: Any
        _view_given: dict[str, Tensor | None]
        _view_kept: Mapping[str, Any]  # name -> `attributes.Kept`
        _view_kind: Any  # the model's class
        _view_leaf: bool  # whether a reader may stand for it in inference
        _view_narrow: tuple[str, ...]  # names of the narrow integers
        _view_parameters: frozenset[str]  # names of the parameters that the class was made for
        _view_memo: dict[str, tuple[Any, Any]]
        _view_norm: NormAt | None
        _view_own: dict[str, Any]
        _view_packs: dict[str, Pack]
        _view_path: str
        _view_shared: Any  # `shared_state.Shared`
        _view_slices: dict[str, Slice]
        _view_wide: nn.Module
        training: bool


def is_view(module: nn.Module) -> bool:
    """Whether a module is part of a view."""
    return isinstance(module, Live)


def own_of_width(view: Any, name: str, *, training: bool | None = None) -> Tensor | None:
    """The tensor that a batch norm has of its width alone, None if it has none."""
    norm = view._view_norm
    if norm is None:
        return None
    if name in STATISTICS:
        return norm.statistic(name, view.training if training is None else training)
    return norm.parameter(name)


def dotted(view: Any, name: str) -> str:
    return f"{view._view_path}.{name}" if view._view_path else name


def written_attribute(view: Any, name: str) -> Any:
    """What was written to an attribute of a view; it may have been deleted there."""
    value = view._view_own[name]
    if value is MISSING:
        raise AttributeError(f"'{type(view).__name__}' object has no attribute '{name}'")
    return value


def refuse(view: Any, what: str) -> NoReturn:
    """Raise the error of what cannot be done to a view."""
    class_name = type(view).__name__
    raise ViewError(
        f"cannot {what} a view of {class_name}: its tensors are parts of the wide network's, and stay so. Do it to the wide network "
        "(net.model) for all widths, or to a copy of this width alone: net.extract(width)."
    )


def restructured(view: Any) -> StaleViewError:
    view._view_shared.changed(view._view_shared)
    return StaleViewError(
        f"modules of '{view._view_path or type(view).__name__}' were added, removed or replaced since this view was made. "
        "Call net.at(width) again."
    )
