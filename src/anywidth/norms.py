"""Batch norm, the one layer whose state depends on the width: shared, switchable or frozen.

- `shared`: one affine pair, sliced; statistics per width, filled by training listed widths or by `calibrate`.
  (Universally Slimmable Networks, arXiv 1903.05134, sec. 3.2, "post-statistics of BN".)
- `switchable`: every listed width has its own affine pair and statistics. (Slimmable Networks, arXiv 1812.08928, sec. 3.)
- `frozen`: the wide network's statistics, sliced, never updated (detection).

Beside the policy, `freeze_` makes the state of every listed width a constant, as detectors have it: norms evaluate with
their statistics in training too, and neither statistics nor affine pairs change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anywidth.channels.space import ChannelSpace
from anywidth.errors import StatisticsError, WidthError
from anywidth.view import AxisPlan, cut
from anywidth.width import Width

NormPolicy = Literal["shared", "switchable", "frozen"]
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Path -> every batch norm that tracks statistics."""
    return {
        p: m for p, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None
    }


def width_key(width: Width) -> str:
    """A short name for a width, the same on every machine."""
    return hashlib.sha256(json.dumps(width.to_json(), sort_keys=True).encode()).hexdigest()[:16]


class NormBank(nn.Module):
    """Per-width state of all batch norms. Its parameters are the switchable affine pairs.

    The full width's state is the model's own, so that a checkpoint of the wide network stays an ordinary one.
    """

    def __init__(self, model: nn.Module, space: ChannelSpace, policy: NormPolicy) -> None:
        super().__init__()
        if policy not in get_args(NormPolicy):
            raise ValueError(f"norm={policy!r} is no norm policy: use 'shared', 'switchable' or 'frozen'.")
        self.policy: NormPolicy = policy
        self.lenient = False  # whether listed widths may be evaluated before they have statistics
        self.constant = False  # whether nothing of any norm changes in training (`freeze_`)
        self.space = space
        self.statistics: dict[Width, dict[str, Tensor]] = {}
        self.affine = nn.ParameterDict()
        self.widths_of_affine: dict[str, Width] = {}
        self._models = [model]  # in a list: the model is no submodule of its norms

    @property
    def model(self) -> nn.Module:
        return self._models[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NormBank:
        super()._apply(fn, recurse)
        with torch.no_grad():
            self.statistics = {w: {n: fn(t) for n, t in s.items()} for w, s in self.statistics.items()}
        return self

    def list_(self, width: Width) -> None:
        """Make room for a width: statistics to train or calibrate, and an affine pair of its own if switchable."""
        if width == self.space.full or self.policy == "frozen" or width in self.statistics:
            return
        self.statistics[width] = self._fresh(width)
        if self.policy == "switchable":
            key = width_key(width)
            self.widths_of_affine[key] = width
            for path, m in batch_norms(self.model).items():
                for name in ("weight", "bias"):
                    p = getattr(m, name)
                    if p is not None:
                        part = cut(self.space, f"{path}.{name}", width)
                        own = (p if part is None else part.of(p)).detach().clone()
                        self.affine[_slot(key, path, name)] = nn.Parameter(own, requires_grad=p.requires_grad)
        if self.constant:
            self._slice_(width)

    @torch.inference_mode(False)
    def _fresh(self, width: Width) -> dict[str, Tensor]:
        """Statistics before any batch was seen: mean 0, variance 1, count 0."""
        made: dict[str, Tensor] = {}
        for path, (mean, plan) in self._plans.items():
            part = plan.part(width) if plan is not None else None
            size = mean.numel() if part is None else part.stop if isinstance(part, slice) else part.numel()
            made[f"{path}.running_mean"] = mean.new_zeros(size)
            made[f"{path}.running_var"] = mean.new_ones(size)
            made[f"{path}.num_batches_tracked"] = torch.zeros((), dtype=torch.long, device=mean.device)
        return made

    @cached_property
    def _plans(self) -> dict[str, tuple[Tensor, AxisPlan | None]]:
        """Running mean and axis of every batch norm."""
        found = {}
        for path, m in batch_norms(self.model).items():
            axis = self.space.axes.get(f"{path}.running_mean", (None,))[0]
            assert m.running_mean is not None
            found[path] = (m.running_mean, None if axis is None else AxisPlan.of(axis))
        return found

    def freeze_(self) -> None:
        """Make all norms constants: no gradients, and evaluation mode whatever the mode of the network.

        Listed widths without statistics of their own get slices of the wide network's.
        """
        for width in self.statistics:
            if not self.ready(width):
                self._slice_(width)
        self.constant = True
        for m in batch_norms(self.model).values():
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
        wide = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name, t in self.overrides(width).items():
            part = cut(self.space, name, width)
            if name in wide and not name.endswith("num_batches_tracked"):
                t.copy_(wide[name] if part is None else part.of(wide[name]))

    def renew_(self) -> None:
        """Look at the model again (its tensors were moved, cast or replaced); statistics follow it."""
        self.__dict__.pop("_plans", None)
        like = next((mean for mean, _ in self._plans.values()), None)
        if like is not None:
            for found in self.statistics.values():
                for name, t in found.items():
                    found[name] = t.to(like) if t.is_floating_point() else t.to(like.device)

    def overrides(self, width: Width) -> dict[str, Tensor]:
        """Tensors that a view of `width` has in place of the wide network's.

        Raises:
            WidthError: switchable norms, and the width is not listed.
        """
        if width == self.space.full or self.policy == "frozen":
            return {}
        known = self.statistics.get(width)
        if self.policy == "switchable" and known is None:
            raise WidthError(
                "this width has no batch norms of its own: with norm='switchable' only listed widths exist. List it when "
                "the network is made (widths=[...]), or use norm='shared' for any width at any time."
            )
        found = dict(known if known is not None else self._fresh(width))
        if self.policy == "switchable":
            key = width_key(width)
            for path in self._plans:
                for name in ("weight", "bias"):
                    if _slot(key, path, name) in self.affine:
                        found[f"{path}.{name}"] = self.affine[_slot(key, path, name)]
        return found

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
    def still(self) -> bool:
        """Whether norms stay in evaluation mode while the network trains."""
        return self.constant or self.policy == "frozen"

    def needs_check(self, width: Width) -> bool:
        """Whether a view of this width must be watched before it runs."""
        if self.lenient and width in self.statistics and not self.constant:
            return False
        return self.still or (width != self.space.full and bool(self._plans))

    def snapshot(self) -> dict[str, Any]:
        """All statistics, the wide network's too, to go back to."""
        wide = {
            f"{p}.{n}": b.clone() for p, m in batch_norms(self.model).items() for n, b in m.named_buffers()
        }
        return {
            "wide": wide,
            "narrow": {w: {n: t.clone() for n, t in s.items()} for w, s in self.statistics.items()},
        }

    def restore_(self, snapshot: Mapping[str, Any]) -> None:
        """Statistics as they were; widths listed since are forgotten."""
        tensors = dict(self.model.named_buffers())
        with torch.no_grad():
            for name, t in snapshot["wide"].items():
                tensors[name].copy_(t)
            self.statistics = {w: s for w, s in self.statistics.items() if w in snapshot["narrow"]}
            for w, found in self.statistics.items():
                for name, t in found.items():
                    t.copy_(snapshot["narrow"][w][name])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Statistics of narrow widths belong to `state_dict` like any buffer."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({f"{prefix}statistics/{k}": t for k, t in self.state().items()})

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        unexpected = args[3]
        for w, found in self.statistics.items():
            for name, t in found.items():
                key = f"{prefix}statistics/{width_key(w)}/{name}"
                if key in state_dict:
                    t.copy_(state_dict[key])
                    if key in unexpected:
                        unexpected.remove(key)

    def forget_(self, width: Width) -> None:
        """Drop statistics (channels were reordered, or statistics are to be collected anew)."""
        if width in self.statistics:
            self.statistics[width] = self._fresh(width)

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
        wanted: list[tuple[Tensor, str]] = []
        for w in widths:
            self.list_(w)
            wanted += [(t, f"{width_key(w)}/{n}") for n, t in self.statistics.get(w, {}).items()]
        missing = [key for _, key in wanted if key not in state]
        if missing:
            raise StatisticsError(
                f"{len(missing)} of {len(wanted)} batch-norm tensors are missing in the saved statistics, e.g. {missing[0]}."
            )
        for t, key in wanted:
            t.copy_(state[key])


def _slot(key: str, path: str, name: str) -> str:
    return f"{key}/{path}/{name}".replace(".", ":")
