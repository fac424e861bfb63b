"""The best epoch: evaluations while training, and the weights that did best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, unknown_name
from anywidth.files import replacing
from anywidth.train import distributed
from anywidth.train.checkpoint import Parts
from anywidth.train.config import FitConfig

BEST = "best.pt"
Scores = Callable[[Elastic], Mapping[str, float]]
"""Network -> label of each listed width and its accuracy; leaves the network as it was."""


class Best:
    """Keeps the weights of the best epoch in a file.

    Args:
        run: directory of the file.
        config: `eval_every` and `best` say when and by what.
        scores: measures a network.
        labels: of the listed widths.
    """

    def __init__(
        self, run: Path, config: FitConfig, scores: Scores | None, labels: Sequence[str] = ()
    ) -> None:
        if config.eval_every and scores is None:
            raise ValueError("training: eval_every is set, but nothing measures the network (scores=None)")
        if config.eval_every and str(config.best) not in ("mean", "min", *labels):
            raise RecipeError(f"train.best: {unknown_name('metric', config.best, ['mean', 'min', *labels])}")
        self.path, self.config, self.scores = run / BEST, config, scores
        self.value, self.epoch = -1.0, 0

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch}

    def load_(self, state: Mapping[str, Any]) -> None:
        self.value, self.epoch = state["value"], state["epoch"]

    def due(self, epoch: int) -> bool:
        """Whether to look after so many epochs."""
        every = self.config.eval_every
        # eval_every 3 of 10 epochs: 3, 6, 9 and 10.
        return bool(every) and (epoch % every == 0 or epoch == self.config.epochs)

    def look_(self, epoch: int, parts: Parts) -> dict[str, Any]:
        """Measure the network (its moving average where there is one), and keep it if it is the best so far."""
        assert self.scores is not None
        net = parts.net if parts.ema is None else parts.ema.net
        accuracies = dict(self.scores(net))
        value = self._value(accuracies)
        # Of equal epochs the first one stays.
        if value > self.value:
            self.value, self.epoch = value, epoch
            if distributed.rank() == 0:
                with replacing(self.path) as temporary:
                    torch.save({"epoch": epoch, "value": value, "net": net.state_dict()}, temporary)
        return {"scores": accuracies, "value": value, "best_epoch": self.epoch}

    def _value(self, accuracies: Mapping[str, float]) -> float:
        by = str(self.config.best)
        if by == "mean":
            return sum(accuracies.values()) / len(accuracies)
        if by == "min":
            return min(accuracies.values())
        return accuracies[by]

    def finish_(self, parts: Parts) -> None:
        """Give the network its final weights: of the best epoch, the moving average, or the last."""
        distributed.barrier()
        if self.config.eval_every and self.epoch:
            # Only process 0 wrote the file, and other machines may not see its disk.
            state = distributed.from_first(
                lambda: torch.load(self.path, map_location="cpu", weights_only=True)
            )
            parts.net.load_state_dict(state["net"])
        elif parts.ema is not None:
            parts.net.load_state_dict(parts.ema.net.state_dict())
