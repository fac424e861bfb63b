"""Operations without a rule: what they cost, and what to do."""

from __future__ import annotations

import logging

from torch import nn

from anywidth.space.channel_space import ChannelSpace

_log = logging.getLogger(__name__)


def shares_of_unknown(model: nn.Module, space: ChannelSpace) -> dict[str, float]:
    """Operation without a rule, as "operation in module" -> share of the parameters that are (partly) frozen because of it."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    total = max(sum(sizes.values()), 1)
    shares = {}
    for operation in space.unknown:
        tensors = {f.tensor for f in space.frozen if operation in f.reason}
        shares[operation] = sum(sizes.get(name, 0) for name in tensors) / total
    return shares


def log_unknown(model: nn.Module, space: ChannelSpace) -> None:
    """Warn of every operation that keeps channels wide for want of a rule."""
    for operation, share in shares_of_unknown(model, space).items():
        _log.warning(
            "no rule for %s: what it touches stays wide, %.0f %% of the parameters of %s. anywidth.tracing.register_rule says what an "
            "operation does to channels (docs/extending/rule.md).",
            operation,
            100 * share,
            type(model).__name__,
        )
