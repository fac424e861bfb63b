"""Batch norm, the one layer whose state depends on the width: shared, switchable or frozen.

- `shared`: one affine pair, sliced; statistics per width, filled by training listed widths or by `calibrate`.
  (Universally Slimmable Networks, arXiv 1903.05134, sec. 3.2, "post-statistics of BN".)
- `switchable`: every listed width has its own affine pair and statistics. (Slimmable Networks, arXiv 1812.08928, sec. 3.)
- `frozen`: the wide network's statistics, sliced, never updated (detection).

Apart from the policy, `freeze_` makes the state of every listed width a constant, as detectors have it: norms evaluate with
their statistics in training too, and neither statistics nor affine pairs change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from anywidth.compat.compiled_constants import assume_constant_result
from anywidth.compat.layers import BatchNorm
from anywidth.compat.module_state import buffers_of, parameters_of
from anywidth.compat.moving import FollowsMoves
from anywidth.compat.state_dicts import StateDictEntries
from anywidth.compat.tensors import version_of
from anywidth.errors import StatisticsError, WidthError
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width, label_text, width_key
from anywidth.views import AxisPlan, Live, cut, own_of_width

NormPolicy = Literal["shared", "switchable", "frozen"]
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Path -> every batch norm that tracks statistics."""
    return {
        p: m
        for p, m in model.named_modules()
        if isinstance(m, BatchNorm) and buffers_of(m).get("running_mean") is not None
    }


def statistics_of(norm: BatchNorm) -> dict[str, Tensor | None]:
    """The statistics that a norm updates in training, measured or not."""
    width_tensors = {
        name: own_of_width(norm, name, training=True) for name in _STATISTICS if isinstance(norm, Live)
    }
    return {
        name: buffers_of(norm)[name] if width_tensors.get(name) is None else width_tensors[name]
        for name in _STATISTICS
    }


@torch.no_grad()
def reset_(norm: BatchNorm) -> None:
    """Statistics before any batch was seen."""
    for name, t in statistics_of(norm).items():
        if t is not None:
            t.fill_(1 if name == "running_var" else 0)


class NormBank(FollowsMoves, StateDictEntries, nn.Module):
    """Per-width state of all batch norms. Its parameters are the switchable affine pairs.

    The full width's state is the model's own, so that a checkpoint of the wide network stays an ordinary one.
    """

    def __init__(self, model: nn.Module, space: ChannelSpace, policy: NormPolicy) -> None:
        super().__init__()
        if policy not in get_args(NormPolicy):
            raise ValueError(f"norm={policy!r} is no norm policy: use 'shared', 'switchable' or 'frozen'.")
        self.policy: NormPolicy = policy
        self.lenient = False  # whether listed widths may be evaluated before they have statistics
        self.still = policy == "frozen"  # whether norms stay in evaluation mode while the network trains
        self.constant = False
        self.space = space
        # Views hold the inner dicts: update their content, never replace them.
        self.statistics: dict[Width, dict[str, Tensor]] = {}
        self.labels: dict[Width, Hashable] = {}
        self.affine = nn.ParameterDict()
        self.widths_of_affine: dict[str, Width] = {}
        # In a list: as an attribute the model would become a submodule of its norms, and be saved twice.
        self._models = [model]

    @property
    def model(self) -> nn.Module:
        return self._models[0]

    def moved_(self, function: Callable[[Tensor], Tensor]) -> None:
        """Statistics of narrow widths move with the network."""
        with torch.no_grad():
            for tensors in self.statistics.values():
                tensors.update({n: function(t) for n, t in tensors.items()})

    def list_(self, width: Width, label: Hashable = None) -> None:
        """Make room for a width: statistics to train or calibrate, and an affine pair of its own if switchable."""
        self.labels.setdefault(
            width, width_key(width) if label is None or isinstance(label, Width) else label
        )
        if width == self.space.full or self.policy == "frozen" or width in self.statistics:
            return
        self.statistics[width] = self._fresh(width)
        if self.policy == "switchable":
            key = label_text(self.labels[width])
            self.widths_of_affine[key] = width
            for path, m in batch_norms(self.model).items():
                for name in ("weight", "bias"):
                    p = getattr(m, name)
                    if p is not None:
                        axis_cut = cut(self.space, f"{path}.{name}", width)
                        initial = (p if axis_cut is None else axis_cut.of(p)).detach().clone()
                        self.affine[_slot(key, path, name)] = nn.Parameter(
                            initial, requires_grad=p.requires_grad
                        )
        if self.constant:
            self._slice_(width)

    @torch.inference_mode(False)
    def _fresh(self, width: Width) -> dict[str, Tensor]:
        """Statistics before any batch was seen: mean 0, variance 1, count 0."""
        # bn1 of 64 channels, of which the width keeps 16: running_mean (16,) of 0, running_var (16,) of 1, a count of 0.
        statistics: dict[str, Tensor] = {}
        for path, (mean, plan) in self._plans.items():
            positions = plan.part(width) if plan is not None else None
            size = (
                mean.numel()
                if positions is None
                else positions.stop
                if isinstance(positions, slice)
                else positions.numel()
            )
            statistics[f"{path}.running_mean"] = mean.new_zeros(size)
            statistics[f"{path}.running_var"] = mean.new_ones(size)
            statistics[f"{path}.num_batches_tracked"] = torch.zeros((), dtype=torch.long, device=mean.device)
        return statistics

    @cached_property
    def _plans(self) -> dict[str, tuple[Tensor, AxisPlan | None]]:
        """Running mean and axis of every batch norm."""
        plans = {}
        for path, m in batch_norms(self.model).items():
            axis = self.space.axis(f"{path}.running_mean", 0)
            assert m.running_mean is not None
            plans[path] = (m.running_mean, None if axis is None else AxisPlan.of(axis))
        return plans

    def reaches(self, width: Width, path: str) -> bool:
        """Whether a norm sees other values at a width than in the wide network: a group that is narrower there makes its
        channels, or is read by an earlier layer.
        """
        upstream = self.space.upstream.get(path)
        if upstream is None:  # a network that was traced before this was recorded
            return width != self.space.full
        return any(width.kept[g] != self.space.groups[g].size for g in upstream)

    def freeze_(self) -> None:
        """Make all norms constants: no gradients, and evaluation mode whatever the mode of the network.

        Listed widths without statistics of their own get slices of the wide network's.
        """
        for width in self.statistics:
            if not self.ready(width):
                self._slice_(width)
        self.constant = True
        for m in batch_norms(self.model).values():
            m.training = False
            for p in m.parameters(recurse=False):
                p.requires_grad_(False)
        for p in self.affine.parameters():
            p.requires_grad_(False)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Statistics may be collected inside, also those of constant norms."""
        constant, self.constant = self.constant, False
        try:
            yield
        finally:
            self.constant = constant

    @torch.no_grad()
    def _slice_(self, width: Width) -> None:
        """State of a width from the same slices of the wide network's."""
        wide_tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name, t in self.overrides(width).items():
            axis_cut = cut(self.space, name, width)
            if name in wide_tensors and not name.endswith("num_batches_tracked"):
                t.copy_(wide_tensors[name] if axis_cut is None else axis_cut.of(wide_tensors[name]))

    def renew_(self) -> None:
        """Look at the model again (its tensors were moved, cast or replaced); statistics follow it."""
        self.__dict__.pop("_plans", None)
        like = next((mean for mean, _ in self._plans.values()), None)
        if like is not None:
            for tensors in self.statistics.values():
                follow_(tensors, like)

    def overrides(self, width: Width) -> dict[str, Tensor]:
        """Tensors that a view of `width` has in place of the wide network's.

        Raises:
            WidthError: switchable norms, and the width is not listed.
        """
        at = self.at(width, "")
        return {**at.tensors, **{n: self.affine[slot] for n, slot in at.affine.items()}}

    def at(self, width: Width, label: str) -> WidthNorms:
        """The norms of a width, as a view reads them.

        Args:
            width: of the view.
            label: its name in messages.

        Raises:
            WidthError: switchable norms, and the width is not listed.
        """
        if width == self.space.full or self.policy == "frozen":
            return WidthNorms(self, width, label, {}, {})
        known = self.statistics.get(width)
        if self.policy != "switchable":
            return WidthNorms(self, width, label, self._fresh(width) if known is None else known, {})
        if known is None:
            raise WidthError(
                "this width has no batch norms of its own: with norm='switchable' only listed widths exist. List it when "
                "the network is made (widths=[...]), or use norm='shared' for any width at any time."
            )
        # Slots: "layer1.0.bn1.weight" -> "0:5/layer1:0:bn1/weight", a key of `affine`, for the width of label 0.5.
        key = label_text(self.labels[width])
        slots = {
            f"{path}.{name}": _slot(key, path, name)
            for path in self._plans
            for name in ("weight", "bias")
            if _slot(key, path, name) in self.affine
        }
        return WidthNorms(self, width, label, known, slots)

    def ready(self, width: Width) -> bool:
        """Whether batch norms at this width have statistics to evaluate with."""
        if width == self.space.full or self.policy == "frozen" or not self._plans:
            return True
        known = self.statistics.get(width)
        if self.constant and known is not None:
            return True
        # Not all: norms of auxiliary heads that run in training only are never reached in evaluation.
        return known is not None and any(
            int(t) > 0 for n, t in known.items() if n.endswith("num_batches_tracked")
        )

    @property
    def constant(self) -> bool:
        """Whether nothing of any norm changes in training (`freeze_`)."""
        return self._constant

    @constant.setter
    def constant(self, value: bool) -> None:
        self._constant = value
        self.still = value or self.policy == "frozen"

    def snapshot(self) -> dict[str, Any]:
        """All statistics, the wide network's too, to go back to."""
        wide_statistics = {
            f"{p}.{n}": b.clone() for p, m in batch_norms(self.model).items() for n, b in m.named_buffers()
        }
        return {
            "wide": wide_statistics,
            "narrow": {w: {n: t.clone() for n, t in s.items()} for w, s in self.statistics.items()},
        }

    def restore_(self, snapshot: Mapping[str, Any]) -> None:
        """Statistics as they were; widths listed since are forgotten."""
        tensors = dict(self.model.named_buffers())
        with torch.no_grad():
            for name, t in snapshot["wide"].items():
                tensors[name].copy_(t)
            self.statistics = {w: s for w, s in self.statistics.items() if w in snapshot["narrow"]}
            for w, statistics in self.statistics.items():
                for name, t in statistics.items():
                    t.copy_(snapshot["narrow"][w][name])

    def save_entries_(self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool) -> None:
        """Statistics of narrow widths belong to `state_dict` like any buffer, by the label of the width."""
        for w, tensors in self.statistics.items():
            text = label_text(self.labels[w])
            destination.update(
                {f"{prefix}statistics/{text}/{n}": t if keep_vars else t.detach() for n, t in tensors.items()}
            )

    def load_entries_(
        self, state_dict: Mapping[str, Any], prefix: str, unexpected: list[str], errors: list[str]
    ) -> None:
        """Statistics of listed widths. Keys of other widths stay in `unexpected`, and a strict load refuses them."""
        for w, tensors in self.statistics.items():
            for name, t in tensors.items():
                key = f"{prefix}statistics/{label_text(self.labels[w])}/{name}"
                if key not in state_dict:
                    continue
                if state_dict[key].shape != t.shape:
                    errors.append(
                        f"size mismatch for {key}: copying a tensor of {tuple(state_dict[key].shape)}, here it is {tuple(t.shape)}. The "
                        "state dict is of another network, or of other widths under these labels."
                    )
                    continue
                t.copy_(state_dict[key])
        known = {f"{prefix}statistics/{label_text(label)}" for label in self.labels.values()}
        statistics_keys = [k for k in unexpected if k.startswith(f"{prefix}statistics/")]
        for key in statistics_keys:
            if key.rpartition("/")[0] in known:
                unexpected.remove(key)

    def forget_(self, width: Width) -> None:
        """Drop statistics (channels were reordered, or statistics are to be collected again)."""
        if width in self.statistics:
            self.statistics[width].update(self._fresh(width))

    def state(self) -> dict[str, Tensor]:
        """Statistics as flat tensors: '<width key>/<tensor name>'."""
        return {
            f"{width_key(w)}/{n}": t.detach().clone()
            for w, s in self.statistics.items()
            for n, t in s.items()
        }

    def load_state_(self, state: Mapping[str, Tensor], widths: Iterable[Width]) -> None:
        """Take statistics of the given widths from `state`.

        Raises:
            StatisticsError: statistics of a width are missing in `state`; nothing is changed then.
        """
        # Collect first, check, then copy: nothing is changed if a tensor is missing.
        targets: list[tuple[Tensor, str]] = []
        for w in widths:
            self.list_(w)
            targets += [(t, f"{width_key(w)}/{n}") for n, t in self.statistics.get(w, {}).items()]
        missing = [key for _, key in targets if key not in state]
        if missing:
            raise StatisticsError(
                f"{len(missing)} of {len(targets)} batch-norm tensors are missing in the saved statistics, e.g. {missing[0]}."
            )
        for t, key in targets:
            t.copy_(state[key])


class WidthNorms:
    """The batch norms of one width.

    Attributes:
        tensors: name -> statistics of this width.
        affine: name -> which parameter of the bank stands for it.
    """

    def __init__(
        self, bank: NormBank, width: Width, label: str, tensors: dict[str, Tensor], affine: dict[str, str]
    ) -> None:
        self.bank, self.width, self.label = bank, width, label
        self.tensors, self.affine = tensors, affine

    def __call__(self, path: str) -> BankNorm:
        """The norm at a path, as its module in a view reads it."""
        return BankNorm(self, path)


class BankNorm:
    """One batch norm at one width.

    Attributes:
        affine: whether it has a scale and shift of its own.
        like_wide: whether it sees the same values as in the wide network.
        names: of its tensors in `tensors`.
    """

    def __init__(self, norms: WidthNorms, path: str) -> None:
        self.bank, self.norms, self.tensors = norms.bank, norms, norms.tensors
        self.names = {n: f"{path}.{n}" if path else n for n in (*_STATISTICS, "weight", "bias")}
        self._slots = {n: norms.affine.get(full) for n, full in self.names.items()}
        self.affine = any(slot is not None for slot in self._slots.values())
        self.like_wide = self.bank.policy == "shared" and not self.bank.reaches(norms.width, path)
        # Version of the count when it was last above zero: reading a count from a GPU waits for the device, its version does not.
        self._measured = -1

    def parameter(self, name: str) -> Tensor | None:
        """The scale ("weight") or shift ("bias") of this width, None if it is the wide network's."""
        slot = self._slots.get(name)
        return None if slot is None else parameters_of(self.bank.affine)[slot]

    def statistic(self, name: str, training: bool) -> Tensor | None:
        """A statistic of this width, None if it is the wide network's.

        Statistics that were never measured are none in evaluation, where the norm sees what it sees in the wide network.
        """
        if self.like_wide and not training and not self.ready():
            return None
        return self.tensors.get(self.names[name])

    def followed(self, name: str, wide: Tensor) -> Tensor:
        """A statistic where the wide network's is, and of its type: the model was moved or cast since."""
        with torch.inference_mode(False), torch.no_grad():
            follow_(self.tensors, wide)
        return self.tensors[self.names[name]]

    def require(self, norm: Any) -> None:
        """Check that the norm, a module of a view in evaluation mode, has statistics to evaluate with.

        Raises:
            StatisticsError: they were never collected.
        """
        if not self.ready():
            raise self._error(norm)

    @assume_constant_result
    def ready(self) -> bool:
        """Whether the norm has statistics of this width. In a compiled graph: whether it had them when the graph was made."""
        count = self.tensors.get(self.names["num_batches_tracked"])
        if count is None or self._measured == version_of(count):
            return True
        bank = self.bank
        if self.norms.width in bank.statistics and (bank.constant or bank.lenient):
            return True
        if int(count) == 0:
            return False
        self._measured = version_of(count)
        return True

    def _error(self, norm: Any) -> StatisticsError:
        views = [v for reference in norm._view_shared.modules.values() if (v := reference()) is not None]
        norms = [v for v in views if v._view_norm is not None and not v.training]
        missing = [v for v in norms if not v._view_norm.like_wide and not v._view_norm.ready()]
        label = self.norms.label
        return StatisticsError(
            f"width {label} has no batch-norm statistics ('{norm._view_path}' and {len(missing) - 1} more would normalise with "
            f"numbers that were never measured). Call net.calibrate(loader, widths=[{label}]) first, or train at this width."
        )


def follow_(tensors: dict[str, Tensor], like: Tensor) -> None:
    """Statistics go where the wide network's went."""
    for name, t in tensors.items():
        tensors[name] = t.to(like) if t.is_floating_point() else t.to(like.device)


def _slot(key: str, path: str, name: str) -> str:
    return f"{key}/{path}/{name}".replace(".", ":")
