"""Recurrent layers step by step: their fused kernels are one opaque operation, the steps are matrix products and gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.compat.tracing import RECURRENT, in_python
from anywidth.compat.trees import map_only


def in_steps(func: Any, args: Sequence[Any]) -> Any:
    """What `torch.lstm`, `gru`, `rnn_tanh` or `rnn_relu` gives, computed step by step on any device.

    Switching the fused kernels off (`torch.backends.mkldnn.flags`, `cudnn.flags`) would switch them off for other threads too.
    """
    # lstm(input, hx, params, ...) of (T, N, C), or lstm(data, batch_sizes, hx, params, ...) of a packed sequence. In double, for
    # which torch knows no fused kernel on the CPU either.
    packed = isinstance(args[1], Tensor) and not args[1].is_floating_point()
    operation = RECURRENT[func].data if packed else RECURRENT[func].input
    dtype = args[0].dtype
    out = in_python(operation)(*map_only(Tensor, _double, list(args)))
    return map_only(Tensor, lambda t: t.to(dtype), out)


def _double(t: Tensor) -> Tensor:
    return t.to(torch.double) if t.is_floating_point() else t
