"""`Elastic`: a model with its channel space and norm policy; the front door of the package."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from anywidth.calibration import collect_
from anywidth.channels.build import Policy
from anywidth.channels.space import ChannelSpace
from anywidth.cost import Convention, CostModel, kept_rows, parameter_shapes
from anywidth.empty import check_empty, empty_groups, silence_, with_silent
from anywidth.errors import StatisticsError, TraceError, WidthError
from anywidth.norms import NormBank, NormPolicy
from anywidth.probe import probed_space
from anywidth.selection import fed_by, reading_subsets
from anywidth.still import RequireStatistics, as_constants_, keep_frozen
from anywidth.subset import has_index
from anywidth.trunk import Trunk
from anywidth.view import Blueprint, compile_, link_of, standalone
from anywidth.width import Width, unknown_name

_VIEWS_KEPT = 64
_log = logging.getLogger(__name__)


class Elastic(nn.Module):
    """A network that runs at any width. `net.at(w)` is an ordinary module that aliases this one's tensors.

    Args:
        model: any `nn.Module`; it is not copied, and its parameters stay its own.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments on which `model` runs. Costs are
            counted for exactly these inputs: give a batch of one for per-image MACs.
        norm: `"shared"`, `"switchable"` or `"frozen"` batch norms (see `anywidth.norms`).
        widths: the listed widths: multipliers, or label -> multiplier, `Width`, or channels as `space.width` takes them.
            Default: the full width.
        divisor, minimum: rounding of `space.uniform`, in channels: a number, or group name or glob pattern -> number. The
            hidden channels of MobileNet v2 (expansion t, divisor 8) have the divisor 8 t.
        freeze: names or glob patterns of modules or parameters; the channels they make stay.
        space: a channel space found earlier, instead of tracing.

    Raises:
        TraceError: the model fails on the example inputs.
        WidthError: a bad width, or a freeze pattern that matches nothing.

    Source: Slimmable Networks (arXiv 1812.08928), Universally Slimmable Networks (arXiv 1903.05134). Width is a value
    passed to `at`, not a state of the layers, and batch norms of unlisted widths can be calibrated at any time.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        *,
        norm: NormPolicy = "shared",
        widths: Iterable[float] | Mapping[Hashable, Any] | None = None,
        divisor: Policy = 1,
        minimum: Policy = 1,
        freeze: Sequence[str] = (),
        space: ChannelSpace | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(model, widths, divisor, minimum)
        freeze = (freeze,) if isinstance(freeze, str) else freeze
        self.model = model
        self.space = probed_space(model, example_inputs, freeze, divisor, minimum) if space is None else space
        self._shapes = parameter_shapes(model)
        _check_fit(self.space, model)
        self.norms = NormBank(model, self.space, norm)
        self._example = example_inputs
        self._policies = {
            "freeze": tuple(freeze),
            "divisor": divisor if isinstance(divisor, int) else 1,
            "minimum": minimum if isinstance(minimum, int) else 1,
        }
        self.widths: dict[Hashable, Width] = {}
        self._reset()
        listed = {1.0: 1.0} if widths is None else widths
        for label, w in listed.items() if isinstance(listed, Mapping) else [(w, w) for w in listed]:
            self.list_width_(label, w)

    def _reset(self) -> None:
        self._views: OrderedDict[Width, nn.Module] = OrderedDict()
        self._uniform: dict[float, Width] = {}
        self._blueprint: Blueprint | None = None
        self._cost: CostModel | None = None
        self._selecting: list[Elastic] = []
        self.norms.renew_()

    # --- widths -------------------------------------------------------------------------------------------------

    def list_width_(self, label: Hashable, width: Any) -> Width:
        """Add a width to the listed ones, under a label: it gets statistics (and, if switchable, affine pairs)."""
        if isinstance(width, Mapping | list | tuple) and not isinstance(width, Width):
            found = self.space.width(width)
        elif isinstance(width, float):  # a multiplier, also where it is a label of another width
            found = self.space.uniform(width)
        else:
            found = self.width(width)
        self.widths[label] = found
        self.norms.list_(found)
        self._views.pop(found, None)
        return found

    def width(self, w: Any) -> Width:
        """The `Width` behind a width, a label of `net.widths`, or a multiplier.

        Raises:
            WidthError: none of these.
        """
        if isinstance(w, Width):
            return self.space.check(w)
        if isinstance(w, bool):
            raise WidthError(
                f"{w} is no width: give a Width, a multiplier in (0, 1] or a label of net.widths."
            )
        try:
            if w in self.widths:
                return self.widths[w]
        except TypeError:
            raise WidthError(
                f"{w!r} is no width: give a Width, a multiplier in (0, 1] or a label of net.widths."
            ) from None
        if isinstance(w, str | bool) or not isinstance(w, int | float | np.integer | np.floating):
            raise WidthError(
                unknown_name("width label", w, map(str, self.widths)) + ". net.widths lists them."
            )
        if float(w) not in self._uniform:
            if len(self._uniform) >= _VIEWS_KEPT:
                self._uniform.clear()
            self._uniform[float(w)] = self.space.uniform(float(w))
        return self._uniform[float(w)]

    def _label(self, width: Width) -> str:
        for table in (self.widths, self._uniform):
            for label, w in table.items():
                if w == width:
                    return repr(label)
        return repr(width)

    # --- running ------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wide network."""
        if self.norms.still:
            keep_frozen(self.model)
        return self.model(*args, **kwargs)

    def at(self, w: Any) -> nn.Module:
        """The network at a width: a module of the model's own class whose tensors alias this network's.

        Gradients of the view arrive in this network's parameters. The view is in the mode (train or eval) that the
        network is in now; views are kept, so asking again is cheap.

        Train with an optimiser over `net.parameters()`: the view's own parameters never hold a gradient. Updates through
        optimisers, in-place operations and `load_state_dict` are noticed; after writing to `.data` in evaluation, call
        `net.drop_views_()`. Threads may share a view for inference, not for training and inference at once.

        Args:
            w: a `Width`, a multiplier in (0, 1], or a label of `net.widths`.

        Raises:
            WidthError: no such width, or one that is not a prefix of every group.
        """
        if (other := self.owner(w)) is not self:
            return other.at(w)
        width = self.width(w)
        view = self._views.get(width)
        if view is None or not link_of(view).fresh:  # type: ignore[union-attr]
            view = self._build(width)
        self._views.move_to_end(width)
        if view.training != self.model.training:
            view.train(
                self.model.training
            )  # models may act on it (drop caches); then every module as in the wide network
            for mine, wide in zip(view.modules(), self.model.modules(), strict=True):
                mine.training = wide.training
        return view

    def _build(self, width: Width) -> nn.Module:
        if (empty := empty_groups(width)) != set():
            raise WidthError(
                f"a view cannot keep 0 channels of group '{width.names[min(empty)]}'. Use net.extract(width) for a copy "
                "without what it fed."
            )
        if not width.is_prefix:
            bad = next(n for n, u in zip(width.names, width.indices or (), strict=True) if u is not None)
            raise WidthError(
                f"a view needs nested widths (the first units of every group), but '{bad}' keeps chosen units. Use "
                "net.extract(width) for a copy, or aw.reorder_(net, ...) to bring these channels to the front first."
            )
        view = self._view(width)
        self._views[width] = view
        while len(self._views) > _VIEWS_KEPT:
            self._views.popitem(last=False)
        return view

    def _view(
        self, width: Width, *, overrides: Mapping[str, Tensor] | None = None, checked: bool = True
    ) -> nn.Module:
        if self._blueprint is None or not self._blueprint.fresh:
            self._blueprint = Blueprint(self.model, self.space)
            self.norms.renew_()
        checks: list[Callable[[nn.Module], None]] = []
        if checked and self.norms.needs_check(width):
            checks.append(RequireStatistics(self.norms, width, self._label(width)))
        return self._blueprint.build(
            width, self.norms.overrides(width) if overrides is None else overrides, checks
        )

    def extract(self, w: Any) -> nn.Module:
        """A stand-alone copy at a width: owns compact tensors, needs nothing of this package to run (but for selections and
        emptied groups, whose modules and hooks are of this package: export those, do not pickle them).

        Widths need not be prefixes here, and groups may be empty: layers that then do nothing are replaced by their constant
        output (`anywidth.empty`). A width without statistics gets slices of the wide network's, as pruning does: calibrate
        or fine-tune it. Norms that were made constants are `FrozenBatchNorm2d` in the copy.
        """
        if (other := self.owner(w)) is not self:
            return other.extract(w)
        width = self.width(w)
        overrides = None
        if self.norms.policy == "shared" and not self.norms.ready(width):
            overrides = {}
            _log.info(
                "extract: width %s has no statistics of its own; it gets slices of the wide network's",
                self._label(width),
            )
        if not width.is_prefix and self.norms.policy == "switchable":
            raise WidthError(
                "chosen units cannot be extracted with switchable norms: each listed width has its own. Use norm='shared'."
            )
        check_empty(self.space, width)
        view = self._view(with_silent(width), overrides=overrides, checked=False)
        for mine, wide in zip(view.modules(), self.model.modules(), strict=True):
            mine.training = wide.training
        made = standalone(view)
        silence_(made, self.space, width)
        return as_constants_(made) if self.norms.constant else made

    def selection(self, example_inputs: Any = None, *, freeze: Sequence[str] = ()) -> Elastic:
        """This network with streams that keep their width: batch norms that read them choose a subset (`anywidth.selection`).

        It shares all tensors; its widths, of other groups, may be given to `extract`, `at`, `macs` and `params` of this one.

        Args:
            example_inputs: by default those that this network was made with.
            freeze: more that stays, beside what this network was made with.

        Raises:
            TraceError: a network that was loaded has no example inputs (`set_example_`).
        """
        policies = {**self._policies, "freeze": (*self._policies["freeze"], *freeze)}
        if (
            not self._selecting
            or not self._twin_is_fresh()
            or (freeze and self._selecting[0]._policies != policies)
        ):
            example = self.example() if example_inputs is None else example_inputs
            fed = fed_by(self.model, example)
            streams = [
                n for n, layer in fed.items() if layer is None and not has_index(self.model.get_submodule(n))
            ]
            twin = reading_subsets(self.model, streams)
            norm = "frozen" if self.norms.policy == "frozen" else "shared"
            made = Elastic(twin, example, norm=norm, **policies)
            frozen = [g.writers[0] for g in made.space.groups if g.stream and g.writers]
            if frozen:
                made = Elastic(
                    twin, example, norm=norm, **{**policies, "freeze": (*policies["freeze"], *frozen)}
                )
                made._policies = policies
            self._selecting = [made]  # in a list: no submodule of this one
        twin = self._selecting[0]
        twin.training = self.training
        for mine, wide in zip(twin.model.modules(), self.model.modules(), strict=True):
            mine.training = wide.training
        return twin

    def _twin_is_fresh(self) -> bool:
        """Whether the network of selections still shares all tensors."""
        shared = {
            id(t) for t in (*self._selecting[0].model.parameters(), *self._selecting[0].model.buffers())
        }
        return all(id(t) in shared for t in (*self.model.parameters(), *self.model.buffers()))

    def example(self) -> Any:
        """The example inputs that this network was made with, on its device and of its type.

        Raises:
            TraceError: it was loaded, or made from a space, and knows none.
        """
        if self._example is None:
            raise TraceError(
                "this network knows no example inputs, as it was loaded or made from a channel space; set them with "
                "net.set_example_(x)"
            )
        like = next(iter(self.model.parameters()), torch.zeros(0))
        return tree_map_only(
            Tensor, lambda t: t.to(like) if t.is_floating_point() else t.to(like.device), self._example
        )

    def set_example_(self, example_inputs: Any) -> None:
        """Inputs on which the model runs: a tensor, a tuple of arguments or a dict of keyword arguments."""
        self._example = example_inputs

    def owner(self, w: Any) -> Elastic:
        """The network whose groups `w` names: that of the selections for a width of it, else this one."""
        if isinstance(w, Width) and w.names != self.space.names and self._example is not None:
            given = self._selecting[0]._policies["freeze"] if self._selecting else ()
            other = self.selection(freeze=[f for f in given if f not in self._policies["freeze"]])
            return other if other.space.names == w.names else self
        return self

    def compile(self, widths: Iterable[Any] | None = None, **options: Any) -> dict[Any, nn.Module]:  # type: ignore[override]
        """Compile the views of these widths (default: all listed), each with a cache of its own.

        `torch.compile` keeps a few graphs per code object and then runs eagerly without a word; here every width has its
        own code object, and a graph break is an error (`fullgraph=False` allows it).

        Returns:
            label -> compiled view; `net.at` returns the same ones.
        """
        chosen = list(self.widths) if widths is None else list(widths)
        return {w: compile_(self.at(w), **options) for w in chosen}

    # --- batch norms --------------------------------------------------------------------------------------------

    def calibrate(
        self,
        loader: Iterable[Any],
        widths: Iterable[Any] | None = None,
        batches: int = 8,
        *,
        total: Callable[[Tensor], Tensor] | None = None,
        trunk: str | None = None,
    ) -> None:
        """Collect batch-norm statistics: the cumulative average over `batches` batches, all widths on the same ones.

        Args:
            loader: yields inputs, or tuples whose first entry is the input: (N, C, ...), or what else the model takes, like
                the list of images of a detector; use training images.
            widths: widths, labels or multipliers (default: all listed); new ones are listed.
            batches: how many batches to average over, each with equal weight.
            total: sums a tensor over processes that each see other batches; None for one process.
            trunk: module path; what comes before its output runs once per batch for all widths that keep the same of it, to the same
                statistics.

        Raises:
            StatisticsError: the loader yields nothing, or norms are frozen.

        Source: Universally Slimmable Networks, sec. 3.2; each width is averaged over the same images.
        """
        if self.norms.policy == "frozen":
            raise StatisticsError(
                "norm='frozen' keeps the wide network's statistics; make the network with norm='shared' to calibrate."
            )
        chosen = list(self.widths) if widths is None else list(widths)
        for w in chosen:
            self.norms.overrides(self.width(w))  # refuses widths that cannot have statistics
        listed, snapshot = dict(self.widths), self.norms.snapshot()
        try:
            for w in chosen:
                if self.width(w) not in self.widths.values():
                    self.list_width_(w if isinstance(w, Hashable) else repr(w), w)
            device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
            views = [partial(self.at, w) for w in chosen]
            first = None if trunk is None else Trunk(self.space, self.norms.policy, trunk)
            full = [self.width(w) for w in chosen]
            with self.norms.measuring():
                seen = collect_(views, loader, batches, device=device, total=total, trunk=first, widths=full)
            if seen == 0:
                raise StatisticsError(
                    "calibration got no batch: the loader is empty. Give a loader over training images."
                )
        except BaseException:
            self.norms.restore_(snapshot)
            self.widths = listed
            self.drop_views_()
            raise

    def has_statistics(self, w: Any) -> bool:
        """Whether the network can be evaluated at this width."""
        return self.norms.ready(self.width(w))

    def norm_state(self) -> dict[str, Tensor]:
        """Statistics of all listed widths, flat."""
        return self.norms.state()

    def load_norm_state_(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `norm_state` gave; widths must be listed already."""
        self.norms.load_state_(state, set(self.widths.values()))

    # --- cost ---------------------------------------------------------------------------------------------------

    @property
    def cost(self) -> CostModel:
        shapes = parameter_shapes(self.model)
        if shapes != self._shapes:
            changed = next(n for n in {**shapes, **self._shapes} if shapes.get(n) != self._shapes.get(n))
            raise TraceError(
                f"'{changed}' is not what it was when the network was traced ({self._shapes.get(changed)}, now "
                f"{shapes.get(changed)}), so costs are unknown. Make the network elastic again: aw.Elastic(model, example_inputs)."
            )
        if self._cost is None:
            self._cost = CostModel(self.space, shapes)
        return self._cost

    def macs(self, w: Any, convention: Convention = "anywidth") -> Any:
        """Multiply-adds for the example inputs at a width; for a sequence of widths (or an N x groups array of units) an array."""
        return self._costs(w, lambda cost, kept: cost.macs(kept, convention))

    def params(self, w: Any) -> Any:
        """Parameters at a width, tied ones once; arrays as in `macs`."""
        return self._costs(w, CostModel.params)

    def activations(self, w: Any) -> Any:
        """Elements written by convolutions and matrix products for the example inputs; arrays as in `macs`."""
        return self._costs(w, CostModel.activations)

    def _costs(self, w: Any, formula: Callable[[CostModel, np.ndarray], np.ndarray]) -> Any:
        if (other := self.owner(w)) is not self:
            return other._costs(w, formula)
        if isinstance(w, Width | str) or not isinstance(w, Sequence | np.ndarray):
            return int(formula(self.cost, kept_rows(self.space, [self.width(w)], self.width))[0])
        return formula(self.cost, kept_rows(self.space, w, self.width))

    # --- housekeeping -------------------------------------------------------------------------------------------

    def save(self, path: Any) -> None:
        """Write `path` (weights under the base model's own names) and, beside it, statistics and a description."""
        from anywidth.store import save

        save(self, path)

    def drop_views_(self) -> None:
        """Forget the views made so far (their statistics or weights were replaced); the next `at` makes new ones."""
        self._views.clear()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Elastic:
        super()._apply(fn, recurse)
        self._reset()
        return self

    def __deepcopy__(self, memo: dict) -> Elastic:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        memo[id(self.space)] = self.space
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        made.norms.renew_()
        return made

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_views=OrderedDict(), _blueprint=None, _cost=None, _selecting=[])
        return state

    def extra_repr(self) -> str:
        return f"groups={len(self.space.groups)}, norm={self.norms.policy!r}, widths={list(self.widths)}"


def _check_arguments(model: Any, widths: Any, divisor: Policy, minimum: Policy) -> None:
    if not isinstance(model, nn.Module):
        raise TraceError(f"model is a {type(model).__name__}; aw.Elastic takes an nn.Module.")
    if any(t.is_inference() for t in (*model.parameters(), *model.buffers())):
        raise TraceError(
            f"{type(model).__name__} was made under torch.inference_mode(), so its tensors can never have gradients or views; make "
            "it outside."
        )
    if widths is not None and (isinstance(widths, str) or not isinstance(widths, Iterable)):
        raise WidthError(
            f"widths={widths!r}: give a list of multipliers, or a dict of label -> multiplier or Width."
        )
    if any(isinstance(p, int) and p < 1 for p in (divisor, minimum)):
        raise WidthError(f"divisor={divisor}, minimum={minimum}: both count channels and are at least 1.")


def _check_fit(space: ChannelSpace, model: nn.Module) -> None:
    """A space found elsewhere must be of this model."""
    shapes = {n: tuple(t.shape) for n, t in (*model.named_parameters(), *model.named_buffers())}
    for name, axes in space.axes.items():
        size = tuple(None if a is None else sum(r.positions for r in a) for a in axes)
        own = shapes.get(name)
        if (
            own is None
            or len(own) < len(size)
            or any(s not in (None, n) for s, n in zip(size, own, strict=False))
        ):
            raise TraceError(
                f"the channel space is not of this {type(model).__name__}: it knows '{name}' as {size}, here it is {own}."
            )
