"""Stage II: training gates on a network that stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anywidth.cost.cost_model import Convention
from anywidth.errors import AnywidthError, DataError
from anywidth.gating.config import GateConfig
from anywidth.gating.gate import Gate, new_gates
from anywidth.gating.losses import (
    expected_cost,
    expected_entropy,
    expected_loss,
    sparsification_loss,
    wanted,
)
from anywidth.gating.masked import Masked, published_losses
from anywidth.gating.net import DynamicNet
from anywidth.gating.routes import Routes
from anywidth.gating.target import bias_for, check_target, costs_of, joined, set_bias_
from anywidth.gating.tree import Node, walk
from anywidth.seeds import generator

_NOISE = 30


class GateDivergenceError(AnywidthError, FloatingPointError):
    """The loss of a gate is not finite."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where the training of gates stands.

    Attributes:
        step, steps: done, and in all.
        loss: of this step.
        macs: mean multiply-adds that the gates ask for, gates included.
    """

    step: int
    steps: int
    loss: float
    macs: float


def gate_loss(
    routes: Routes,
    gates: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    config: GateConfig,
    *,
    noise: torch.Generator | None = None,
) -> tuple[Tensor, float]:
    """Loss of one batch, with a gradient to the gates, and the mean multiply-adds.

    Args:
        routes: of the network.
        gates: one for each.
        images: (N, ...).
        labels: (N,).
        config: the settings.
        noise: of the Gumbel softmax.

    Source: Li et al., arXiv 2103.13258, section 3.3; the expectation over routes is ours.
    """
    costs = costs_of(routes, _gate_macs(gates), config.convention)
    if config.method == "gumbel":
        return published_losses(routes, gates, images, labels, config, costs, noise=noise)
    nodes, leaves = walk(routes, gates, images)
    sparsify, weight = config.weights
    mean_macs = expected_cost(nodes, {leaf.route: float(costs.routes[leaf.route]) for leaf in leaves})
    # Relative, so that one weight suits all networks: 120 M of a target of 100 M is an excess of 0.2.
    excess = mean_macs / costs.reachable[1] if config.target is None else mean_macs / config.target - 1
    loss = (
        expected_loss(nodes, leaves, labels)
        - config.entropy * expected_entropy(nodes)
        + weight * excess.square()
    )
    if sparsify:
        to_widest = wanted(leaves, labels, hard=config.hard)
        loss = loss + sparsify * sparsification_loss(
            nodes, to_widest, smoothing=config.smoothing, double_softmax=config.double_softmax
        )
    return loss, float(mean_macs.detach())


def train_gates(
    routes: Routes,
    batches: Callable[[int], Iterable[Sequence[Tensor]]],
    config: GateConfig,
    *,
    held_out: Iterable[Sequence[Tensor]] | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    report: Callable[[Step], None] = lambda step: None,
) -> DynamicNet:
    """Train gates; the network does not change.

    Args:
        routes: of a network with statistics for its widths.
        batches: epoch -> loader of (images, labels), always as long.
        config: the settings.
        held_out: (images, labels) on which the bias is chosen that meets the target; needed where there is one.
        seed: of the gates' weights and of the noise.
        device: of the network, by default.
        report: is told about every step.

    Returns:
        The network with its gates, in evaluation mode.

    Raises:
        WidthError: a target out of reach, with the range, or a network that the masks of `method="gumbel"` do not fit.
        ValueError: a target without held-out images.
        DataError: no images, or fewer than two in the first batch.
        GateDivergenceError: a loss that is not finite.
    """
    like = next(routes.net.parameters())
    device = device or like.device
    example = next(iter(batches(0)), None)
    if example is None:
        raise DataError("gate: the loader yields no images")
    if len(example[0]) < 2 and config.method == "expected":
        raise DataError(
            f"gate: features are standardised over the first batch, which has {len(example[0])} image; give batches of 2 or more"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gates = new_gates(routes.features(example[0][:1].to(device)), routes.choices).to(like)
    _prepare_(routes, list(gates), example[0].to(device), config)
    costs = costs_of(routes, _gate_macs(list(gates)), config.convention)
    if config.target is not None:
        check_target(config.target, costs)
        if held_out is None:
            raise ValueError("gate: a target is met on held-out images; give held_out")
    _fit_(routes, gates, batches, config, seed, device, report)
    if config.target is not None and held_out is not None:
        meet_(routes, list(gates), held_out, config.target, convention=config.convention)
    return DynamicNet(routes, list(gates))


@torch.no_grad()
def _prepare_(routes: Routes, gates: Sequence[nn.Module], images: Tensor, config: GateConfig) -> None:
    """Published gates are bare; ours begin without an opinion, on standardised features."""
    for gate in gates:
        assert isinstance(gate, Gate)
        if config.method == "gumbel":
            gate.offset.requires_grad_(False)
        else:
            gate.weight.zero_()
    values: Sequence[Tensor] = (images,)
    widest = (routes.choices - 1,) * len(gates)
    for position, gate in enumerate(gates):
        # Standardised at the widest route: its features have all the channels that narrower ones share.
        feature, *values = routes.part(position, widest)(*values)
        if config.method == "expected":
            gate.standardise_(feature)  # pyright: ignore[reportCallIssue]
        else:
            Masked(routes).check(values)


def _fit_(
    routes: Routes,
    gates: nn.ModuleList,
    batches: Callable[[int], Iterable[Sequence[Tensor]]],
    config: GateConfig,
    seed: int,
    device: torch.device,
    report: Callable[[Step], None],
) -> None:
    optimizer = torch.optim.SGD(
        [p for p in gates.parameters() if p.requires_grad],
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
    )
    steps = config.epochs * _length(batches(0))
    step_index = 0
    for epoch in range(config.epochs):
        for images, labels in batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 + math.cos(math.pi * step_index / steps)) / 2
            noise = generator(seed, step_index, _NOISE)
            optimizer.zero_grad()
            loss, macs = gate_loss(
                routes, list(gates), images.to(device), labels.to(device), config, noise=noise
            )
            if not loss.isfinite():
                raise GateDivergenceError(
                    f"gate: the loss of step {step_index + 1} is {float(loss.detach())}; lower gate.lr (now {config.lr:g})"
                )
            loss.backward()
            optimizer.step()
            step_index += 1
            report(Step(step=step_index, steps=steps, loss=float(loss.detach()), macs=macs))


def _length(batches: Iterable[Sequence[Tensor]]) -> int:
    return len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)


def _gate_macs(gates: Sequence[nn.Module]) -> int:
    return sum(gate.macs for gate in gates)  # pyright: ignore[reportArgumentType, reportCallIssue]


@torch.no_grad()
def answers(
    routes: Routes, gates: Sequence[nn.Module], batches: Iterable[Sequence[Tensor]]
) -> tuple[list[Node], Tensor]:
    """What every gate says on all routes without its bias, and which routes are right.

    Returns:
        The nodes of all images together, and (N, choices, ..., choices) booleans.
    """
    # The bias is what the caller is about to choose, so the logits are read without it.
    saved = [gate.bias.clone() for gate in gates]  # pyright: ignore[reportCallIssue]
    for gate in gates:
        gate.bias.zero_()  # pyright: ignore[reportCallIssue]
    node_batches, correct_batches = [], []
    device = next(routes.net.parameters()).device
    try:
        for images, labels in batches:
            nodes, leaves = walk(routes, gates, images.to(device))
            node_batches.append(nodes)
            correct = [
                leaf.output.argmax(1) == labels.to(device)
                for leaf in sorted(leaves, key=lambda leaf: leaf.route)
            ]
            correct_batches.append(torch.stack(correct, 1).reshape(-1, *[routes.choices] * len(gates)))
    finally:
        for gate, bias in zip(gates, saved, strict=True):
            gate.bias.copy_(bias)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if not node_batches:
        raise DataError("gate: the loader yields no images")
    return joined(node_batches), torch.cat(correct_batches)


def meet_(
    routes: Routes,
    gates: Sequence[nn.Module],
    held_out: Iterable[Sequence[Tensor]],
    target: float,
    *,
    convention: Convention = "anywidth",
) -> float:
    """Give the gates the bias with which the mean cost on held-out images is the target.

    Returns:
        The strength of the bias.

    Raises:
        WidthError: a target out of reach.
    """
    costs = costs_of(routes, _gate_macs(gates), convention)
    nodes, _ = answers(routes, gates, held_out)
    strength = bias_for(nodes, costs, target)
    set_bias_(gates, costs, strength)
    return strength


__all__ = ["GateConfig", "Step", "answers", "gate_loss", "meet_", "train_gates"]
