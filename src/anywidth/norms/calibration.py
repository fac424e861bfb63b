"""Batch-norm statistics of a width: the cumulative average over batches, merged over processes.

Source: Universally Slimmable Networks, arXiv 1903.05134, sec. 3.2 ("post-statistics of BN").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.compat.trees import map_only
from anywidth.norms.bank import batch_norms, reset_, statistics_of
from anywidth.space.width import Width
from anywidth.views import eagerly, holding


def inputs_of(batch: Any) -> Any:
    """The model's input in a batch: the first entry of a tuple or list, or the batch itself."""
    return batch[0] if isinstance(batch, tuple | list) else batch


@torch.no_grad()
def collect_(
    views: Sequence[Callable[[], nn.Module]],
    loader: Iterable[Any],
    batches: int,
    *,
    device: torch.device,
    total: Callable[[Tensor], Tensor] | None = None,
    shared_run: Callable[[Any], Callable[..., Any]] | None = None,
    widths: Sequence[Width] = (),
) -> int:
    """Replace the batch-norm statistics of views by the average over batches, all views on the same ones.

    Args:
        views: each returns a view (again for every batch, so that no more are alive than the network caches).
        loader: yields inputs, or tuples whose first entry is the input (N, C, ...).
        batches: how many batches of `loader` to use at most, each with equal weight.
        device: where inputs go.
        total: sums a tensor over processes, each of which saw other batches; None for one process.
        shared_run: a batch -> what runs a view at a width on it, with a first part that runs once for all views (`graph.Once`).
        widths: of the views, for `shared_run`.

    Returns:
        How many batches were seen, by all processes.
    """
    for view in views:
        for m in batch_norms(view()).values():
            reset_(m)
    batch_count = torch.zeros((), dtype=torch.float64, device=device)
    for batch in islice(loader, batches):
        x = inputs_of(batch)
        x = map_only(Tensor, lambda t: t.to(device), x)
        shared_batch = None if shared_run is None else shared_run(x)
        for index, view in enumerate(views):
            _add_(view(), x if shared_batch is None else partial(shared_batch, width=widths[index]))
        batch_count += 1
    if total is not None:
        batch_count = total(batch_count)
        for view in views:
            _merge_(view(), total)
    return int(batch_count)


def _add_(view: nn.Module, x: Any) -> None:
    """One more batch in the cumulative average of a view's statistics; everything else is in evaluation mode.

    Args:
        x: the batch, or what runs the view on it.
    """
    norms = set(batch_norms(view).values())
    with ExitStack() as stack:
        stack.enter_context(eagerly(view))
        for m in view.modules():
            stack.enter_context(holding(m, training=m in norms))
        for m in norms:
            # momentum None: torch weights batch k by 1 / k, the cumulative average.
            stack.enter_context(holding(m, momentum=None))
        x(view) if isinstance(x, partial) else view(x)


def _merge_(view: nn.Module, total: Callable[[Tensor], Tensor]) -> None:
    """The average over all batches of all processes."""
    # Process 0 saw 3 batches with mean 1, process 1 saw 1 batch with mean 5: (3 x 1 + 1 x 5) / (3 + 1) = 2. All tensors travel as
    # one vector [mean x count, var x count, ..., counts], so there is one all-reduce per view instead of one per norm.
    norms = [statistics_of(m) for m in batch_norms(view).values()]
    counts = [n for m in norms if (n := m["num_batches_tracked"]) is not None]
    weighted = [t * n.to(t) for m, n in zip(norms, counts, strict=True) for t in (m["running_mean"], m["running_var"]) if t is not None]  # fmt: skip
    sums = total(torch.cat([*weighted, torch.stack(counts).to(weighted[0])])) if weighted else torch.zeros(0)
    sizes = [p.numel() for p in weighted]
    *merged, all_counts = sums.split([*sizes, len(counts)]) if weighted else [sums]
    remaining_sums = iter(merged)
    for m, n, count in zip(norms, counts, all_counts, strict=True):
        for t in (m["running_mean"], m["running_var"]):
            if t is not None:
                t.copy_(next(remaining_sums) / count.clamp(min=1))
        n.fill_(int(count))
