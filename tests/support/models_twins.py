"""The same network of another library, given the same weights."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def scattered(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in float64 with random weights and norms that keep the size of what passes through."""
    random = torch.Generator().manual_seed(seed)
    for m in model.double().eval().modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            m.weight.copy_(torch.randn(m.weight.shape, generator=random) * m.weight[0].numel() ** -0.5)
        elif isinstance(m, nn.BatchNorm2d):
            for tensor in (m.weight, m.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
            for tensor in (m.bias, m.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.3)
    return model


def assert_twins(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Both compute the same logits in float64, once the tensors of ours are copied in their order."""
    ours, theirs = scattered(ours), theirs.double().eval()
    with torch.no_grad():
        for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert mine.shape == other.shape
            other.copy_(mine)
        got, expected = ours(x), theirs(x)
    assert float((got - expected).norm() / expected.norm()) < 1e-9


def capped(model: nn.Module) -> nn.Module:
    """ReLU6 where there was ReLU."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.ReLU6())
    return model
