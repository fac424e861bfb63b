"""What a detector learns in a step: its own losses at every width, summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from anywidth.elastic import Elastic
from anywidth.views import unnoticed

Proposals = Literal["own", "widest"]
Reduction = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class DetectionLoss:
    """The losses of a step over all widths.

    Attributes:
        proposals: "own": each width draws its own regions, as published; "widest": all learn from those of the widest (detectors
            with a region proposal network).
        distill: weight of the squared distance between a width's features and the widest's, in the first channels, which both have, mean over
            elements and levels; 0 for none. Published experience with it is poor (docs/detection.md).
        reduction: the gradient is the "sum" over widths, as published, or their "mean".

    Raises:
        ValueError: a value that is not offered.

    Source: Slimmable Networks, arXiv 1812.08928, appendix B, and its detection code.
    """

    proposals: Proposals = "own"
    distill: float = 0.0
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        for name, literal in (("proposals", Proposals), ("reduction", Reduction)):
            if getattr(self, name) not in get_args(literal):
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: expected {' or '.join(map(repr, get_args(literal)))}"
                )
        if not 0 <= self.distill < float("inf"):
            raise ValueError(f"distill = {self.distill!r}: expected a number from 0")

    def check(self, net: Elastic) -> None:
        """
        Raises:
            ValueError: shared proposals of a detector that makes none.
        """
        if self.proposals == "widest" and not hasattr(net.model, "rpn"):
            raise ValueError(
                f"proposals = 'widest': {type(net.model).__name__} has no region proposal network; use 'own'"
            )

    def __call__(
        self, net: Elastic, batch: tuple[list[Tensor], list[dict[str, Any]]], widths: Sequence[Any], how: Any
    ) -> Tensor:
        """Run every width forward and backward; the gradients add up in the parameters of `net`.

        Args:
            net: in training mode.
            batch: images (3, H, W) and targets, as torchvision's detectors take them.
            widths: the widest first.
            how: autocast, scale, view, run and synchronised, as of `anywidth.train.step.Pass`.

        Returns:
            (len(widths),) losses, detached.
        """
        # widths = (1.0, 0.5): pass 0 runs the widest network and records its proposals and features, which
        # pass 1 may read. Each pass runs backward at once, so that the graph of one width is alive at a time.
        images, targets = batch
        share = 1 / len(widths) if self.reduction == "mean" else 1.0
        losses, widest = [], _Recording()
        for index, width in enumerate(widths):
            view = how.view(net, width)
            is_widest = index == 0
            recording = widest if is_widest else _Recording()
            shared_proposals = None if is_widest or self.proposals == "own" else widest.proposals
            with how.synchronised(index == len(widths) - 1):
                with _recorded(view, recording, shared_proposals, features=self.distill > 0), how.autocast():
                    loss_terms = how.run(partial(view, images, targets))
                loss = torch.stack([_in_full(v) for v in loss_terms.values()]).sum()
                if is_widest:
                    widest.detach_()
                elif self.distill:
                    loss = loss + self.distill * _distance(recording.features, widest.features)
                how.scale(share * loss).backward()
            losses.append(loss.detach())
        return torch.stack(losses)


def _in_full(loss: Tensor) -> Tensor:
    """Losses are summed in float32 at least."""
    return loss if loss.dtype == torch.float64 else loss.float()


class _Recording:
    """Intermediate values of one forward pass."""

    def __init__(self) -> None:
        self.proposals: list[Tensor] | None = None
        self.features: list[Tensor] = []

    def detach_(self) -> None:
        # Distillation moves the narrow widths towards the widest, never the reverse.
        self.features = [f.detach() for f in self.features]


@contextmanager
def _recorded(
    view: nn.Module, recording: _Recording, proposals: list[Tensor] | None, *, features: bool
) -> Iterator[None]:
    """Keep proposals and features of a pass; with `proposals`, later heads see these."""
    hooks = []

    def regions(module: nn.Module, args: Any, out: Any) -> Any:
        recording.proposals = [p.detach() for p in out[0]]
        return None if proposals is None else (proposals, out[1])

    def pyramid(module: nn.Module, args: Any, out: Any) -> None:
        recording.features = list(out.values()) if isinstance(out, Mapping) else [out]

    with unnoticed(view):
        if isinstance(rpn := getattr(view, "rpn", None), nn.Module):
            hooks.append(rpn.register_forward_hook(regions))
        if features:
            hooks.append(view.get_submodule("backbone").register_forward_hook(pyramid))
    try:
        yield
    finally:
        with unnoticed(view):
            for hook in hooks:
                hook.remove()


def _distance(features: Sequence[Tensor], widest_features: Sequence[Tensor]) -> Tensor:
    # One pair per pyramid level, e.g. (N, 128, h, w) and (N, 256, h, w): the first 128 channels are compared.
    levels = []
    for a, b in zip(features, widest_features, strict=True):
        channels = min(a.shape[1], b.shape[1])  # the widest as a whole may have the narrower neck
        levels.append((a[:, :channels] - b[:, :channels].to(a)).square().mean())
    return torch.stack(levels).mean()
