"""Mixed precision: the context of a forward pass, and the scale of a loss."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from anywidth.train.config import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Forward passes in `precision`; parameters stay as they are."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:  # pyright: ignore[reportPrivateImportUsage]
    """Scales losses where gradients of float16 would vanish; elsewhere it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")  # pyright: ignore[reportPrivateImportUsage]
