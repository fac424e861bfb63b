"""`Elastic`: a model with its channel space and norm policy; the front door of the package."""

from __future__ import annotations

import copy
import json
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.channel_select import has_index
from anywidth.compat.module_state import tensors_of
from anywidth.compat.moving import FollowsMoves
from anywidth.compat.state_dicts import StateDictEntries
from anywidth.compat.trees import map_only
from anywidth.cost.cost_model import Convention, CostModel, TensorShapes, kept_rows, parameter_shapes
from anywidth.errors import CheckpointError, StatisticsError, TraceError, WidthError, unknown_name
from anywidth.graph.emptied_groups import check_empty, empty_groups, silence_, with_silent
from anywidth.graph.shared_prefix import Once, Trunk
from anywidth.norms.bank import NormBank, NormPolicy
from anywidth.norms.calibration import collect_
from anywidth.norms.constant_norms import as_constants_, keep_frozen
from anywidth.norms.stream_selection import fed_by, reading_subsets
from anywidth.pretrained_configs import ConfigSizes, RefusedSave, has_pretrained_config
from anywidth.saving import save
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import Policy
from anywidth.space.width import Width, check_label
from anywidth.tracing.model_outputs import FreeOutputs
from anywidth.tracing.refusals import check_model
from anywidth.tracing.training_mode import set_mode_
from anywidth.tracing.unknown import log_unknown
from anywidth.views import Blueprint, NormKind, PackStore, baseline, compile_, standalone, without_graphs
from anywidth.views.model_signature import ModelForward
from anywidth.views.slices import is_sharded
from anywidth.views.trial_runs import probed

_VIEWS_KEPT, _COSTS_KEPT = 64, 4096
_WIDTHS = "widths"  # in a state dict
_log = logging.getLogger(__name__)


class Elastic(FollowsMoves, StateDictEntries, nn.Module):
    """A network that runs at any width. `net.at(w)` is an ordinary module that aliases this one's tensors.

    Args:
        model: any `nn.Module`; it is not copied, and its parameters stay its own.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments on which `model` runs. Costs are
            counted for exactly these inputs: give a batch of one for per-image MACs.
        norm: `"shared"`, `"switchable"` or `"frozen"` batch norms (see `anywidth.norms.bank`).
        widths: the listed widths: multipliers, or label -> multiplier, `Width`, or channels as `space.width` takes them.
            Default: the full width.
        divisor, minimum: rounding of `space.uniform`, in channels: a number, or group name or glob pattern -> number. The
            hidden channels of MobileNet v2 (expansion t, divisor 8) have the divisor 8 t.
        freeze: names or glob patterns of modules or parameters; the channels they make stay.
        free_outputs: outputs that may be narrower at a narrow width, as features that nobody relies on: names or glob patterns ("features",
            "1.hidden.*"), or a function of name and tensor. Caches, hidden states and attentions of Hugging Face outputs always are;
            `net.space.free_outputs` lists them.
        space: a channel space found earlier, instead of tracing; `divisor` and `minimum` then are its own by default, and `freeze`
            says what was frozen when it was found.

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
        divisor: Policy | None = None,
        minimum: Policy | None = None,
        freeze: Sequence[str] = (),
        free_outputs: FreeOutputs = (),
        space: ChannelSpace | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(model, widths, divisor, minimum, space is not None)
        freeze = (freeze,) if isinstance(freeze, str) else tuple(freeze)
        self.model = model
        blueprint: Blueprint | None = None
        if space is None:
            blueprint = probed(model, example_inputs, freeze, divisor or 1, minimum or 1, free_outputs)
            space = blueprint.space
            log_unknown(model, space)
        elif divisor is not None or minimum is not None:
            space = space.rounded(
                space.divisor if divisor is None else divisor, space.minimum if minimum is None else minimum
            )
        if freeze and not set(freeze) <= set(space.freeze):
            space = replace(space, freeze=tuple(dict.fromkeys((*space.freeze, *freeze))))
        self.space = space
        _check_fit(self.space, model)
        self._kept = baseline(model) if blueprint is None else blueprint.kept
        self.norms = NormBank(model, self.space, norm)
        self._example = example_inputs
        self.widths: dict[Hashable, Width] = {}
        self._selecting: list[Elastic] = []
        self._reset()
        if blueprint is not None and blueprint.norms == self._norm_kind:
            self._blueprint = blueprint
        listed = {1.0: 1.0} if widths is None else widths
        for label, w in listed.items() if isinstance(listed, Mapping) else [(w, w) for w in listed]:
            self.list_width_(label, w)

    def _reset(self) -> None:
        """Forget everything that was worked out from the model's tensors and modules."""
        self._lock = threading.RLock()
        self._packs = PackStore(self.model)
        self._views: OrderedDict[Width, nn.Module] = OrderedDict()
        self._uniform: dict[float, Width] = {}
        self._blueprint: Blueprint | None = None
        self._cost: tuple[CostModel, TensorShapes] | None = None
        self._config_sizes: ConfigSizes | None = None
        self._known_costs: dict[Any, int] = {}
        self.norms.renew_()

    # --- widths -------------------------------------------------------------------------------------------------

    def list_width_(self, label: Hashable, width: Any) -> Width:
        """Add a width to the listed ones, under a label: it gets statistics (and, if switchable, affine pairs).

        Raises:
            WidthError: no such width, or a label that cannot be told from another one (1, 1.0 and "1.0").
        """
        if isinstance(width, Mapping | list | tuple) and not isinstance(width, Width):
            resolved = self.space.width(width)
        # A float is a multiplier even where it is also the label of another width.
        elif isinstance(width, float):
            resolved = self.space.uniform(width)
        else:
            resolved = self.width(width)
        check_label(label, self.widths)
        self.widths[label] = resolved
        self.norms.list_(resolved, label)
        with self._lock:
            self._views.pop(resolved, None)
        return resolved

    def width(self, w: Any) -> Width:
        """The `Width` behind a width, a label of `net.widths`, or a multiplier.

        Raises:
            WidthError: none of these.
        """
        if isinstance(w, Width):
            return self.space.check(w)
        # True == 1, so as a key of `widths` it would silently mean the label 1.
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

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; graphs of `torch.export` have one mode, and stay in it."""
        self.training = mode
        for child in self.children():
            set_mode_(child, mode)
        return self

    # --- running ------------------------------------------------------------------------------------------------

    forward: Any = ModelForward()

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.norms.still:
            keep_frozen(self.model)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._packs.learnt += 1
        return self.model(*args, **kwargs)

    def at(self, w: Any) -> nn.Module:
        """The network at a width: a module of a subclass of the model's class that reads this network's tensors when it runs.

        A view is an ordinary module in the graph: gradients of its loss arrive in this network's parameters, whatever optimiser,
        hook, `DistributedDataParallel` or `torch.func` transform is around. It is in the mode (train or eval) that the network is
        in, and has the network's attributes and hooks. Views are kept, so asking again is cheap. Train with an optimiser over
        `net.parameters()`. What is done to a view (a hook, `train()`, an attribute) stays with that object, which is then no
        longer the one that `at` returns; what would need tensors of its own (a cast, freezing, a mask) is refused.

        In evaluation without gradients, views keep contiguous copies of their weights, at most three times the network's bytes in
        all. They follow every change that leaves a mark: after writes to `.data`, and after steps of a fused optimiser on gradients of
        `net.model` itself (rather than of `net` or a view), call `net.drop_views_()`.

        Args:
            w: a `Width`, a multiplier in (0, 1], or a label of `net.widths`.

        Raises:
            WidthError: no such width, or one that is not a prefix of every group.
        """
        if (owner := self._of(w)) is not self:
            return owner.at(w)
        width = self.width(w)
        with self._lock:
            if not self._is_fresh():
                self._renew_blueprint()
            view = self._views.get(width)
            if view is None:
                view = self._views[width] = self._build(width)
            self._views.move_to_end(width)
            while len(self._views) > _VIEWS_KEPT:
                self._views.popitem(last=False)
        return view

    def _is_fresh(self) -> bool:
        """Whether views may be made, and kept, by what is known of the model's modules."""
        plan = self._blueprint
        return plan is not None and plan.norms.still == self.norms.still and plan.fresh

    @property
    def _norm_kind(self) -> NormKind:
        return NormKind(switchable=self.norms.policy == "switchable", still=self.norms.still)

    def _renew_blueprint(self) -> None:
        _check_fit(self.space, self.model)
        self._views.clear()
        self._blueprint = Blueprint(self.model, self.space, self._kept, self._norm_kind)
        self.norms.renew_()

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
        assert self._blueprint is not None
        # A view made under inference mode may be trained later, and inference tensors can never record gradients.
        with torch.inference_mode(False):
            norms = self.norms.at(width, self._label(width))
            return self._blueprint.build(width, norms=norms, packs=self._packs, changed=_Leave(self, width))

    def extract(self, w: Any) -> nn.Module:
        """A stand-alone copy at a width: owns compact tensors, needs nothing of this package to run (but for selections and
        emptied groups, whose modules and hooks are of this package: export those, do not pickle them).

        The config of a Hugging Face model says the sizes of the copy, for `save_pretrained`; where it cannot, that raises `WidthError`.

        Widths need not be prefixes here, and groups may be empty: layers that then do nothing are replaced by their constant
        output (`anywidth.graph.emptied_groups`). A width without statistics gets slices of the wide network's, as pruning does: calibrate
        or fine-tune it. Norms that were made constants are `FrozenBatchNorm2d` in the copy.
        """
        if (owner := self._of(w)) is not self:
            return owner.extract(w)
        width = self.width(w)
        measured = self.norms.ready(width) or self.norms.policy != "shared"
        if not measured:
            _log.info(
                "extract: width %s has no statistics of its own; it gets slices of the wide network's",
                self._label(width),
            )
        if not width.is_prefix and self.norms.policy == "switchable":
            raise WidthError(
                "chosen units cannot be extracted with switchable norms: each listed width has its own. Use norm='shared'."
            )
        check_empty(self.space, width)
        _check_fit(self.space, self.model)
        with self._lock:
            if not self._is_fresh():
                self._renew_blueprint()
            assert self._blueprint is not None
            full = with_silent(width)
            norms = self.norms.at(full, self._label(width)) if measured else None
            small = standalone(self._blueprint.build(full, norms=norms))
        silence_(small, self.space, width)
        self._write_config_(small)
        return as_constants_(small) if self.norms.constant else small

    def _write_config_(self, small: nn.Module) -> None:
        """Let the config of a Hugging Face model say the sizes of its copy; what cannot be said so cannot be saved so."""
        if not has_pretrained_config(self.model):
            return
        if self._config_sizes is None:
            self._config_sizes = ConfigSizes(self.model)
        example = self.example() if self.knows_example else None
        reason = self._config_sizes.write_(small, self.space.unused, example)
        if reason is not None:
            _log.info("extract: no config says the sizes of this copy: %s", reason)
            vars(small)["save_pretrained"] = RefusedSave(reason)

    def selection(self, example_inputs: Any = None, *, freeze: Sequence[str] = ()) -> Elastic:
        """This network with streams that keep their width: batch norms that read them choose a subset (`anywidth.norms.stream_selection`).

        An elastic network of its own, of other groups, that shares all tensors. While it is this network's last one, its widths may
        also be given to `extract`, `at`, `macs` and `params` of this network.

        Args:
            example_inputs: by default those that this network was made with.
            freeze: names or patterns to freeze in addition to those that this network was made with.

        Raises:
            TraceError: a network that was loaded has no example inputs (`set_example_`).
        """
        freeze = (*self.space.freeze, *freeze)
        known = self._selecting[0] if self._selecting else None
        if known is None or not self._shares_tensors(known) or not set(freeze) <= set(known.space.freeze):
            example = self.example() if example_inputs is None else example_inputs
            fed = fed_by(self.model, example)
            streams = [
                n for n, layer in fed.items() if layer is None and not has_index(self.model.get_submodule(n))
            ]
            twin = reading_subsets(self.model, streams)
            norm = "frozen" if self.norms.policy == "frozen" else "shared"
            # Made up to three times: the first trace finds which groups are streams, the second one has them frozen, and the last
            # network reuses that space under the rounding policies of this one, as far as they match its groups.
            free = tuple(self.space.free_outputs)
            known = Elastic(twin, example, norm=norm, freeze=freeze, free_outputs=free)
            written = [g.writers[0] for g in known.space.groups if g.stream and g.writers]
            if written:
                known = Elastic(twin, example, norm=norm, freeze=(*freeze, *written), free_outputs=free)
            space = known.space.rounded(self.space.divisor, self.space.minimum, strict=False)
            known = Elastic(twin, example, norm=norm, space=space)
            # In a list: as an attribute it would become a submodule, and its tensors would be saved twice.
            self._selecting = [known]
        known.training = self.training
        for m, wide_module in zip(known.model.modules(), self.model.modules(), strict=True):
            m.training = wide_module.training
        return known

    def _shares_tensors(self, selection: Elastic) -> bool:
        """Whether the network of selections still has this one's tensors."""
        shared = {id(t) for t in (*selection.model.parameters(), *selection.model.buffers())}
        return all(id(t) in shared for t in (*self.model.parameters(), *self.model.buffers()))

    def _of(self, w: Any) -> Elastic:
        """The network that a width is of: the selection made from this one if its groups are that one's, else this one."""
        foreign = isinstance(w, Width) and w.names != self.space.names
        if foreign and self._selecting and self._selecting[0].space.names == w.names:
            return self.selection(freeze=self._selecting[0].space.freeze)
        return self

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
        return map_only(
            Tensor, lambda t: t.to(like) if t.is_floating_point() else t.to(like.device), self._example
        )

    @property
    def knows_example(self) -> bool:
        """Whether there are example inputs, those it was made with or others (`set_example_`)."""
        return self._example is not None

    def set_example_(self, example_inputs: Any) -> None:
        """Inputs on which the model runs: a tensor, a tuple of arguments or a dict of keyword arguments."""
        self._example = example_inputs

    def compile(self, widths: Iterable[Any] | None = None, **options: Any) -> dict[Any, nn.Module]:  # type: ignore[override]
        """Compile the views of these widths (default: all listed), each with a cache of its own.

        `torch.compile` keeps a few graphs per code object and then silently runs eagerly; here every width has its
        own code object, and a graph break is an error (`fullgraph=False` allows it).

        Returns:
            label -> compiled view; `net.at` returns the same ones.
        """
        requested = list(self.widths) if widths is None else list(widths)
        return {w: compile_(self.at(w), **options) for w in requested}

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
        requested = list(self.widths) if widths is None else list(widths)
        # Raises for widths that cannot have statistics, before anything is changed.
        for w in requested:
            self.norms.overrides(self.width(w))
        # All or nothing: a loader that raises in the middle would otherwise leave statistics of half the batches.
        listed, snapshot = dict(self.widths), self.norms.snapshot()
        try:
            for w in requested:
                if self.width(w) not in self.widths.values():
                    self.list_width_(w if isinstance(w, Hashable) else repr(w), w)
            device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
            views = [partial(self.at, w) for w in requested]
            shared_run = None if trunk is None else partial(Once, Trunk(self.space, self.norms.policy, trunk))
            full = [self.width(w) for w in requested]
            with self.norms.measuring():
                batch_count = collect_(
                    views, loader, batches, device=device, total=total, shared_run=shared_run, widths=full
                )
            if batch_count == 0:
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
        """The cost formulas of this network.

        Raises:
            TraceError: parameters have other shapes than when it was traced.
        """
        if self._cost is None:
            shapes = TensorShapes(self.model)
            _check_fit(self.space, self.model)
            self._cost = CostModel(self.space, shapes.shapes), shapes
        cost, shapes = self._cost
        if not shapes.fresh:
            self._check_shapes(shapes)
        return cost

    def _check_shapes(self, before: TensorShapes) -> None:
        shapes = parameter_shapes(self.model)
        if shapes != before.shapes:
            changed = next(n for n in {**shapes, **before.shapes} if shapes.get(n) != before.shapes.get(n))
            raise TraceError(
                f"'{changed}' is not what it was when the network was traced ({before.shapes.get(changed)}, now "
                f"{shapes.get(changed)}), so costs are unknown. Make the network elastic again: aw.Elastic(model, example_inputs)."
            )
        assert self._cost is not None
        self._cost = self._cost[0], TensorShapes(self.model)

    def macs(self, w: Any, convention: Convention = "anywidth") -> Any:
        """Multiply-adds for the example inputs at a width; for a sequence of widths (or an N x groups array of units) an array."""
        return self._costs(w, "macs", convention)

    def params(self, w: Any) -> Any:
        """Parameters at a width, tied ones once, and those that no forward uses as they are; arrays as in `macs`."""
        return self._costs(w, "params")

    def activations(self, w: Any) -> Any:
        """Elements written by convolutions and matrix products for the example inputs; arrays as in `macs`."""
        return self._costs(w, "activations")

    def _costs(self, w: Any, what: str, *options: Any) -> Any:
        if (owner := self._of(w)) is not self:
            return owner._costs(w, what, *options)
        formula = getattr(self.cost, what)
        if not isinstance(w, Width | str) and isinstance(w, Sequence | np.ndarray):
            return formula(kept_rows(self.space, w, self.width), *options)
        width = self.width(w)
        key = (width, what, options)
        if key not in self._known_costs:
            if len(self._known_costs) >= _COSTS_KEPT:
                self._known_costs.clear()
            self._known_costs[key] = int(formula(np.array([width.kept], np.int64), *options)[0])
        return self._known_costs[key]

    # --- housekeeping -------------------------------------------------------------------------------------------

    def save(self, path: Any) -> None:
        """Write `path` (weights under the base model's own names) and, beside it, statistics and a description."""
        save(self, path)

    def drop_views_(self) -> None:
        """Forget the views made so far, and all copies of weights that they keep for inference."""
        with self._lock:
            self._views.clear()
            self._packs.clear()
            self._blueprint = None

    def moved_(self, function: Callable[[Tensor], Tensor]) -> None:
        """Views are of tensors where they were."""
        self._reset()

    def save_entries_(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:
        """The definitions of the listed widths travel with the statistics, as JSON in one tensor of bytes."""
        listed = [
            {"label": None if isinstance(label, Width) else label, "width": w.to_json()}
            for label, w in self.widths.items()
            if isinstance(label, str | int | float | Width)
        ]
        destination[f"{prefix}{_WIDTHS}"] = torch.frombuffer(
            bytearray(json.dumps(listed).encode()), dtype=torch.uint8
        )

    def load_entries_(
        self, state_dict: Mapping[str, Any], prefix: str, unexpected: list[str], errors: list[str]
    ) -> None:
        """List the widths of the state dict, so that the norms, which are children, have room for their statistics."""
        key = f"{prefix}{_WIDTHS}"
        if key in state_dict:
            self._list_saved_(state_dict[key], key)
        if key in unexpected:
            unexpected.remove(key)

    def _list_saved_(self, saved: Tensor, key: str) -> None:
        """List the widths of a state dict; those of another network are an error."""
        try:
            listed = json.loads(bytes(saved.cpu().tolist()))
            width_of_label = {
                (w if entry["label"] is None else entry["label"]): self.space.check(w)
                for entry in listed
                for w in [Width.from_json(entry["width"])]
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"'{key}' of the state dict: not the widths of this network ({error}). Load a state dict of a network that was made "
                "elastic from the same model with the same freeze."
            ) from error
        for label, w in width_of_label.items():
            if self.widths.get(label) != w:
                self.list_width_(label, w)

    def __deepcopy__(self, memo: dict) -> Elastic:
        # The space is immutable and shared; locks, views and cost tables are left out of the state and rebuilt.
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        memo[id(self.space)] = self.space
        memo[id(self._kept)] = self._kept
        memo.update(without_graphs(self.model))
        clone.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        clone._selecting = []
        clone._reset()
        return clone

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in (
            "_lock",
            "_packs",
            "_views",
            "_uniform",
            "_blueprint",
            "_cost",
            "_config_sizes",
            "_known_costs",
            "_selecting",
        ):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._kept = baseline(self.model)
        self._selecting = []
        self._reset()

    def extra_repr(self) -> str:
        return f"groups={len(self.space.groups)}, norm={self.norms.policy!r}, widths={list(self.widths)}"


class _Leave:
    """Takes a view out of the cache of `at` when a user changes it."""

    def __init__(self, net: Elastic, width: Width) -> None:
        self.net, self.width = weakref.ref(net), width

    def __call__(self, shared: Any) -> None:
        net = self.net()
        if net is None:
            return
        with net._lock:
            view: Any = net._views.get(self.width)
            if view is not None and view._view_shared is shared:
                del net._views[self.width]


def _check_arguments(
    model: Any, widths: Any, divisor: Policy | None, minimum: Policy | None, has_space: bool
) -> None:
    if not isinstance(model, nn.Module):
        raise TraceError(f"model is a {type(model).__name__}; aw.Elastic takes an nn.Module.")
    check_model(model)
    tensors = tensors_of(model)
    if any(t.is_inference() for t in tensors):
        raise TraceError(
            f"{type(model).__name__} was made under torch.inference_mode(), so its tensors can never have gradients or views; make "
            "it outside."
        )
    if not has_space and any(map(is_sharded, tensors)):
        raise TraceError(
            f"{type(model).__name__} is sharded already, and a sharded network cannot be traced. Make it elastic first, then shard "
            "net.model: net = aw.Elastic(model, example_inputs); fully_shard(net.model). Or give the space of a net that was made before."
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
        shape = shapes.get(name)
        if (
            shape is None
            or len(shape) < len(size)
            or any(s not in (None, n) for s, n in zip(size, shape, strict=False))
        ):
            raise TraceError(
                f"the channel space is not of this {type(model).__name__}: it knows '{name}' as {size}, here it is {shape}."
            )
