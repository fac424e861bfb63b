"""Norms that stay as they are: evaluation mode in training, constants in copies."""

from __future__ import annotations

import torch
from torch import nn

from anywidth.errors import WidthError
from anywidth.norms.bank import NormBank, batch_norms
from anywidth.space.width import Width


@torch.no_grad()
def copy_state_(bank: NormBank, source: Width, target: Width) -> None:
    """Give a listed width the norms of another listed one.

    Raises:
        WidthError: its norms have other channels.
    """
    # Check all shapes first: a width of other channels must not leave half of the norms copied.
    have, want = bank.overrides(source), bank.overrides(target)
    wide_tensors = dict(bank.model.named_parameters()) | dict(bank.model.named_buffers())
    for name, t in want.items():
        source_tensor = have.get(name, wide_tensors[name])
        if source_tensor.shape != t.shape:
            raise WidthError(
                f"norms of the two widths differ in '{name}': {source_tensor.numel()} channels in one, {t.numel()} in the other; "
                "calibrate the new width, or load norms for it."
            )
    for name, t in want.items():
        t.copy_(have.get(name, wide_tensors[name]))


def keep_frozen(model: nn.Module) -> None:
    """Batch norms in evaluation mode, whatever the mode of the network."""
    for m in batch_norms(model).values():
        m.training = False


@torch.no_grad()
def as_constants_(model: nn.Module) -> nn.Module:
    """Put `FrozenBatchNorm2d` in place of every two-dimensional batch norm; the same numbers in evaluation mode.

    Returns:
        `model`, or the norm in its place if it is one.
    """
    # Here, because torchvision takes as long to import as half of torch.
    from torchvision.ops import FrozenBatchNorm2d

    for path, m in batch_norms(model).items():
        if isinstance(m, nn.BatchNorm2d):
            frozen_norm = FrozenBatchNorm2d(m.num_features, eps=m.eps).to(m.running_mean)
            for name, t in frozen_norm.named_buffers():
                norm_tensor = getattr(m, name)
                if norm_tensor is not None:  # without an affine pair: scale 1, shift 0
                    t.copy_(norm_tensor)
            frozen_norm.training = m.training
            if not path:
                return frozen_norm
            model.set_submodule(path, frozen_norm)
    return model
