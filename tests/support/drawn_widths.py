"""The widths of many steps."""

import torch


def drawn(draw, count: int = 200, progress: float = 0.0):
    return [draw(torch.Generator().manual_seed(seed), progress) for seed in range(count)]
