"""Batch-norm statistics for more widths of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anywidth.train import distributed
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.naming import widths_of
from anywidth.workflows.run_directory import finished_classifier
from anywidth.workflows.run_files import NET


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which widths got statistics, and the file of the network that has them now."""

    net: Path
    widths: tuple[Any, ...]


def calibrate(
    run: str | Path, widths: Sequence[float | str] | str = "listed", *, batches: int | None = None
) -> Calibration:
    """Collect batch-norm statistics of widths from training images, list the widths, and save the network again.

    Args:
        run: run directory of a classifier.
        widths: ratios or labels, text like "0.3,large", or "listed".
        batches: training batches; by default the recipe's.

    Returns:
        The widths.

    Raises:
        RecipeError: no finished run.
        WidthError: widths that do not exist.
    """
    open_run = finished_classifier(Path(run))
    with distributed.processes(open_run.device):
        net = saved_classifier(open_run)
        selected = widths_of(net, widths)
        open_run.calibrate_(net, selected, batches=batches)
        # All processes have the same statistics, as their sums were exchanged; one writes them.
        if distributed.rank() == 0:
            net.save(open_run.path / NET)
    return Calibration(net=open_run.path / NET, widths=tuple(selected))
