"""What a gate learns: answers that are right, from routes that cost little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from anywidth.gating.routes import Route
from anywidth.gating.tree import Leaf, Node, log_probabilities

Hard = Literal["widest", "narrowest"]


def expected_loss(nodes: Sequence[Node], leaves: Sequence[Leaf], labels: Tensor) -> Tensor:
    """Mean over the batch of the cross-entropy that is expected if each gate draws its choice."""
    # One gate with p = (0.8, 0.2) and losses (1.0, 3.0) of its routes: 0.8 * 1.0 + 0.2 * 3.0 = 1.4. Only the
    # probabilities carry a gradient.
    probability = log_probabilities(nodes)
    losses = [
        probability[leaf.route].exp()
        * F.cross_entropy(leaf.output.to(nodes[0].logits.dtype), labels, reduction="none")
        for leaf in leaves
    ]
    return torch.stack(losses).sum(0).mean()


def expected_cost(nodes: Sequence[Node], costs: Mapping[Route, float]) -> Tensor:
    """Mean over the batch of the cost that is expected; costs of whole routes, in any unit."""
    probability = log_probabilities(nodes)
    return torch.stack([probability[route].exp() * cost for route, cost in costs.items()]).sum(0).mean()


def expected_entropy(nodes: Sequence[Node]) -> Tensor:
    """Mean over the batch of the entropy of all choices, in nats; a gate after others counts as often as they lead to it."""
    probability = log_probabilities(nodes)
    total = torch.zeros_like(nodes[0].logits[:, 0])
    for node in nodes:
        log_p = node.logits.log_softmax(1)
        total = total - probability[node.route].exp() * (log_p.exp() * log_p).sum(1)
    return total.mean()


def wanted(leaves: Sequence[Leaf], labels: Tensor, *, hard: Hard = "widest") -> Tensor:
    """(N,) True where an input should go through the widest network.

    Easy inputs (the narrowest is right) go to the narrowest, dependent ones (only the widest is right) to the widest, and hard ones
    (both are wrong) as `hard` says: "widest" tries its best, "narrowest" gives up.

    Raises:
        ValueError: another strategy.

    Source: sandwich gate sparsification, Li et al., arXiv 2103.13258, section 3.3.
    """
    if hard not in get_args(Hard):
        raise ValueError(f"hard = {hard!r}: expected {' or '.join(get_args(Hard))}")
    # narrowest  widest  -> widest wanted
    # right      any        no
    # wrong      right      yes
    # wrong      wrong      yes if hard == "widest", else no
    narrowest_correct = min(leaves, key=lambda leaf: leaf.route).output.argmax(1) == labels
    widest_correct = max(leaves, key=lambda leaf: leaf.route).output.argmax(1) == labels
    return ~narrowest_correct if hard == "widest" else ~narrowest_correct & widest_correct


def sparsification_loss(
    nodes: Sequence[Node], wide: Tensor, *, smoothing: float = 0.1, double_softmax: bool = False
) -> Tensor:
    """Cross-entropy of every gate with the choice that `wanted` asks for: the first or the last.

    Args:
        nodes: of all gates; a gate after others counts as often as they are expected to lead to it.
        wide: (N,) from `wanted`.
        smoothing: of the labels.
        double_softmax: take the probabilities for logits, as the published code does.

    Returns:
        Mean over the batch and the gates.
    """
    probability = log_probabilities(nodes)
    # The mean over gates: probabilities of the nodes of one gate add up to 1, so the sum over nodes is a sum
    # over gates.
    count = 1 + max(len(node.route) for node in nodes)
    widest_choice = nodes[0].logits.shape[1] - 1
    total = torch.zeros_like(nodes[0].logits[:, 0])
    for node in nodes:
        logits = node.logits.softmax(1) if double_softmax else node.logits
        each = F.cross_entropy(
            logits, wide.long() * widest_choice, reduction="none", label_smoothing=smoothing
        )
        total = total + probability[node.route].detach().exp() * each
    return total.mean() / count
