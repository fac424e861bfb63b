"""The optimiser, and which parameters it decays."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from anywidth.compat.layers import Convolution
from anywidth.errors import RecipeError, unknown_name

_UNFIT = {"LBFGS": "evaluates the loss several times in a step", "SparseAdam": "takes sparse gradients only"}

NoDecay = Literal["depthwise", "vectors", "nothing"]


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, Convolution) and 1 < module.groups == module.in_channels


def _undecayed(net: nn.Module, spare: NoDecay) -> Iterator[nn.Parameter]:
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            # Biases, affine pairs of norms and layer scales are vectors.
            if parameter.ndim < 2 or (spare == "depthwise" and _is_depthwise(module)):
                yield parameter


def parameter_groups(net: nn.Module, *, weight_decay: float, spare: NoDecay) -> list[dict[str, Any]]:
    """Two groups: the parameters that decay and those that do not.

    Args:
        net: the network.
        weight_decay: of those that decay.
        spare: "depthwise": vectors and scalars (biases, affine parameters of norms, layer scales) and depthwise
            convolutions do not decay (the recipes of arXiv 1812.08928 and 1903.05134); "vectors": only vectors
            and scalars do not; "nothing": all decay.
    """
    # Conv2d(64, 64, 3, groups=64, bias=True) with "depthwise": weight and bias are spared; with "vectors" the bias alone.
    spared = set() if spare == "nothing" else {id(parameter) for parameter in _undecayed(net, spare)}
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimizer(
    net: nn.Module,
    name: str = "sgd",
    *,
    lr: float,
    weight_decay: float,
    spare: NoDecay = "depthwise",
    momentum: float = 0.9,
    nesterov: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Optimizer:
    """An optimiser over the parameters of `net`.

    Args:
        name: "sgd", "adamw", "torch:NAME" (a class of torch.optim) or "timm:NAME" (as timm's optimiser factory
            calls it).
        momentum, nesterov: of "sgd".
        options: further arguments of the optimiser, like {"betas": [0.9, 0.95]}.

    Raises:
        RecipeError: unknown name, or arguments that the optimiser refuses.
    """
    groups = parameter_groups(net, weight_decay=weight_decay, spare=spare)
    arguments: dict[str, Any] = {"lr": lr, **(options or {})}
    source, _, short = name.rpartition(":")
    if short in _UNFIT:
        raise RecipeError(f"optimiser {name!r} {_UNFIT[short]} and cannot train here; use 'sgd' or 'adamw'")
    try:
        if name == "sgd":
            return torch.optim.SGD(groups, **{"momentum": momentum, "nesterov": nesterov, **arguments})
        if name == "adamw":
            return torch.optim.AdamW(groups, **arguments)
        if source == "timm":
            from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]

            # timm would group the parameters itself; `filter_bias_and_bn=False` keeps our groups.
            return create_optimizer_v2(
                groups, opt=short, weight_decay=weight_decay, filter_bias_and_bn=False, **arguments
            )
        classes = {
            k: v
            for k, v in vars(torch.optim).items()
            if isinstance(v, type) and issubclass(v, Optimizer) and k not in _UNFIT
        }
        if source == "torch" and short in classes:
            return classes[short](groups, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise RecipeError(f"optimiser {name!r} cannot be made with {arguments}: {error}") from error
    known = ["sgd", "adamw", *(f"torch:{class_name}" for class_name in classes)]
    raise RecipeError(f"{unknown_name('optimiser', name, known)}; timm's are named 'timm:NAME'")
