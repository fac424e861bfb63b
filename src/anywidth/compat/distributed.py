"""Several processes: synchronised norms and sharded modules."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules._functions import SyncBatchNorm

synchronised_batch_norm = SyncBatchNorm.apply
"""Batch norm over the batches of all processes, as a function: (input, weight, bias, running mean, running variance, eps,
momentum, group, number of processes) -> output.

`nn.SyncBatchNorm` is public, but a module that holds what it normalises with. There is no such function in `nn.functional`.
"""

FSDP_STATE = "_get_fsdp_state"
"""The method by which a sharded module finds what FSDP keeps for it. A module whose class is derived from that of a sharded
one, but which was not sharded itself, must answer for the one that was."""


def fsdp_state_of(module: nn.Module) -> Any:
    """What FSDP keeps for a module that it sharded."""
    return module._get_fsdp_state()  # pyright: ignore[reportCallIssue]
