"""A moving average of the weights, as an elastic network of its own."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from anywidth.elastic import Elastic
from anywidth.errors import WidthError


class Ema:
    """An exponential moving average of a network.

    Args:
        net: copied; its parameters and floating-point buffers are averaged, statistics of narrow widths too.
        decay: share of the average that stays at each step, in [0, 1).
    """

    def __init__(self, net: Elastic, decay: float) -> None:
        self.decay = decay
        self.net = copy.deepcopy(net).eval()
        self.net.requires_grad_(False)
        self.net.norms.lenient = True  # it teaches from the first step, as its widest network does
        self.net.drop_views_()

    @torch.no_grad()
    def update_(self, net: Elastic) -> None:
        """Move towards `net`: average = decay x average + (1 - decay) x net."""
        averaged, current = _tensors(self.net), _tensors(net)
        # In one call for all tensors. Counters are integers and are copied.
        average = [t for t in averaged.values() if t.is_floating_point()]
        get_ema_multi_avg_fn(self.decay)(
            average, [current[k] for k, t in averaged.items() if t.is_floating_point()], None
        )
        for key, t in averaged.items():
            if not t.is_floating_point():
                t.copy_(current[key])

    @torch.no_grad()
    def logits(self, images: Tensor, width: Any = None) -> Tensor:
        """Of the widest network, or at a width, in evaluation mode.

        Raises:
            WidthError: a width whose batch-norm statistics are not averaged, as it is not listed.
        """
        if width is None:
            return self.net(images)
        if self.net.width(width) not in self.net.widths.values() and not self.net.has_statistics(width):
            raise WidthError(
                f"the moving average has no batch-norm statistics at width {width}, which is not listed: add it to widths.listed, "
                "or draw from listed widths (widths.policy = 'listed_sandwich')"
            )
        return self.net.at(width)(images)


def _tensors(net: Elastic) -> dict[str, Tensor]:
    """Parameters, buffers, and statistics of listed widths; not copies."""
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    for index, width in enumerate(dict.fromkeys(net.widths.values())):
        tensors |= {f"{index}/{name}": t for name, t in net.norms.statistics.get(width, {}).items()}
    return tensors
