"""Stage II: training gates on a network that stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from anywidth.cost import Convention
from anywidth.dynamic.gate import Gate, new_gates
from anywidth.dynamic.losses import (
    Hard,
    expected_cost,
    expected_entropy,
    expected_loss,
    sparsification_loss,
    wanted,
)
from anywidth.dynamic.masked import published_losses
from anywidth.dynamic.net import DynamicNet
from anywidth.dynamic.routes import Routes
from anywidth.dynamic.target import bias_for, check_target, costs_of, joined, set_bias_
from anywidth.dynamic.tree import Node, walk
from anywidth.seeds import generator

Method = Literal["expected", "gumbel"]
_NOISE = 30


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Settings of the training of gates.

    Attributes:
        method: "expected": the loss that is expected over all routes, none of which is differentiated; "gumbel": as published, one
            route for each input drawn by straight-through Gumbel softmax, through the masked network.
        target: mean multiply-adds to meet; None for no target.
        epochs, lr, momentum, weight_decay: of SGD with Nesterov momentum, cosine schedule.
        sparsify: weight of the loss that sends easy inputs through the narrowest width; by default 1 with "gumbel", else 0.
        cost: weight of the squared cost: of its relative distance from the target, or without a target of its share of the
            widest route's (with "gumbel" of 10^9 multiply-adds). By default 0.5 with "gumbel", else 0, as the bias that is
            chosen afterwards meets the target.
        entropy: of "expected": weight of the entropy of the choices. The best logits are then minus the losses that are to be
            expected of each route, divided by it, so that a bias proportional to the costs trades one for the other rightly.
        hard: "widest" or "narrowest": where inputs go that even the widest width gets wrong.
        smoothing: of labels.
        double_softmax: take probabilities for logits in the sparsifying loss, as the published code does.
        temperature: of the Gumbel softmax.
        convention: of multiply-adds.

    Raises:
        ValueError: for a number out of its range.
    """

    method: Method = "expected"
    target: float | None = None
    epochs: int = 10
    lr: float = 0.08
    momentum: float = 0.9
    weight_decay: float = 0.0
    sparsify: float | None = None
    cost: float | None = None
    entropy: float = 0.1
    hard: Hard = "widest"
    smoothing: float = 0.1
    double_softmax: bool = False
    temperature: float = 1.0
    convention: Convention = "anywidth"

    def __post_init__(self) -> None:
        ranges = {
            "method": (self.method in get_args(Method), " or ".join(get_args(Method))),
            "hard": (self.hard in get_args(Hard), " or ".join(get_args(Hard))),
            "epochs": (self.epochs >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 < self.momentum < 1, "0 < momentum < 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number from 0"),
            "sparsify": (self.sparsify is None or 0 <= self.sparsify < math.inf, "a number from 0"),
            "cost": (self.cost is None or 0 <= self.cost < math.inf, "a number from 0"),
            "entropy": (0 <= self.entropy < math.inf, "a number from 0"),
            "smoothing": (0 <= self.smoothing < 1, "0 <= smoothing < 1"),
            "temperature": (0 < self.temperature < math.inf, "a number above 0"),
            "target": (self.target is None or self.target > 0, "a number of multiply-adds"),
        }
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"gate.{name} = {getattr(self, name)!r}: expected {expected}")

    @property
    def weights(self) -> tuple[float, float]:
        """Of the sparsifying loss and of the cost."""
        default = (1.0, 0.5) if self.method == "gumbel" else (0.0, 0.0)
        return (
            default[0] if self.sparsify is None else self.sparsify,
            default[1] if self.cost is None else self.cost,
        )


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
    spent = expected_cost(nodes, {leaf.route: float(costs.routes[leaf.route]) for leaf in leaves})
    excess = spent / costs.reachable[1] if config.target is None else spent / config.target - 1
    loss = (
        expected_loss(nodes, leaves, labels)
        - config.entropy * expected_entropy(nodes)
        + weight * excess.square()
    )
    if sparsify:
        wide = wanted(leaves, labels, hard=config.hard)
        loss = loss + sparsify * sparsification_loss(
            nodes, wide, smoothing=config.smoothing, double_softmax=config.double_softmax
        )
    return loss, float(spent.detach())


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
        WidthError: a target out of reach, with the range.
        ValueError: a target without held-out images, or no images.
    """
    like = next(routes.net.parameters())
    device = device or like.device
    example = next(iter(batches(0)), None)
    if example is None:
        raise ValueError("gate: the loader yields no images")
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
    for number, gate in enumerate(gates):
        feature, *values = routes.part(number, widest)(*values)
        if config.method == "expected":
            gate.standardise_(feature)  # pyright: ignore[reportCallIssue]


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
    steps = config.epochs * sum(1 for _ in batches(0))
    number = 0
    for epoch in range(config.epochs):
        for images, labels in batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 + math.cos(math.pi * number / steps)) / 2
            noise = generator(seed, number, _NOISE)
            optimizer.zero_grad()
            loss, macs = gate_loss(
                routes, list(gates), images.to(device), labels.to(device), config, noise=noise
            )
            if not loss.isfinite():
                raise FloatingPointError(
                    f"gate: the loss of step {number + 1} is {float(loss)}; lower gate.lr (now {config.lr:g})"
                )
            loss.backward()
            optimizer.step()
            number += 1
            report(Step(step=number, steps=steps, loss=float(loss.detach()), macs=macs))


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
    saved = [gate.bias.clone() for gate in gates]  # pyright: ignore[reportCallIssue]
    for gate in gates:
        gate.bias.zero_()  # pyright: ignore[reportCallIssue]
    found, right = [], []
    device = next(routes.net.parameters()).device
    try:
        for images, labels in batches:
            nodes, leaves = walk(routes, gates, images.to(device))
            found.append(nodes)
            here = [
                leaf.output.argmax(1) == labels.to(device)
                for leaf in sorted(leaves, key=lambda leaf: leaf.route)
            ]
            right.append(torch.stack(here, 1).reshape(-1, *[routes.choices] * len(gates)))
    finally:
        for gate, bias in zip(gates, saved, strict=True):
            gate.bias.copy_(bias)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if not found:
        raise ValueError("gate: the loader yields no images")
    return joined(found), torch.cat(right)


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
