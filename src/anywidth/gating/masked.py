"""The published way: the widest choice runs for every input, and masks cut it down to the choice that was drawn.

It is slow, and it is what gives the gates their gradient in the published training. Inference never does this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from anywidth.compat.layers import BatchNorm
from anywidth.errors import WidthError
from anywidth.gating.config import GateConfig
from anywidth.gating.losses import sparsification_loss, wanted
from anywidth.gating.routes import Routes
from anywidth.gating.target import RouteCosts
from anywidth.gating.tree import Leaf, Node


def straight_through(
    logits: Tensor, *, temperature: float = 1.0, noise: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Gumbel softmax: probabilities (N, K) with noise, and the one-hot of the largest, which has their gradient.

    Source: Jang et al., arXiv 1611.01144, section 2.2.
    """
    # The negative logarithm of an exponential variable is a Gumbel variable.
    exponential = torch.empty(logits.shape, dtype=logits.dtype).exponential_(generator=noise)
    soft = ((logits - exponential.to(logits.device).log()) / temperature).softmax(1)
    hard = F.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
    # The value is `hard` (soft cancels), the gradient is that of `soft`.
    return soft, hard - soft.detach() + soft


class Masked:
    """The part after a gate at its widest choice, with masks for the others.

    Outputs of convolutions, linear layers and batch norms are cut to each input's channels; batch norms use each
    input's statistics, those of its width.

    Args:
        routes: of one gate, whose widths are prefixes.

    Raises:
        WidthError: several gates.
    """

    def __init__(self, routes: Routes) -> None:
        if len(routes.gates) != 1:
            raise WidthError(
                f"gate.method = 'gumbel' masks what follows one gate; this network has {len(routes.gates)}: use 'expected'"
            )
        self.routes = routes
        widest_choice = routes.choices - 1
        self.first = routes.part(0, ())
        module = routes.part(1, (widest_choice,))
        assert isinstance(module, fx.GraphModule)
        self.parts = [routes.part(1, (k,)) for k in range(routes.choices)]
        self.runner = _Runner(module, self.parts)

    @torch.no_grad()
    def check(self, values: Sequence[Any]) -> None:
        """Compare with the widths themselves, in evaluation mode.

        Args:
            values: from the first part.

        Raises:
            WidthError: masks cannot say what a layer does at some width, as channels that it mixes, or that it keeps, are not a
                prefix of the widest's (batch norms after a concatenation, groups of channels, layer norms).
        """
        # Every input takes the same choice k, and the result is compared with the extracted segment of width k.
        count = len(next(v for v in values if isinstance(v, Tensor)))
        for k, segment in enumerate(self.parts):
            expected = segment(*values)
            one_hot = F.one_hot(torch.full((count,), k, device=expected.device), len(self.parts)).to(expected)
            error = float(
                (self(values, one_hot) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
            )
            if not error < (1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1):
                raise WidthError(
                    f"gate.method = 'gumbel': under its masks the network is not its width {self.routes.labels[k]} (outputs differ by "
                    f"{error:.1%} of the largest), as some layer mixes channels or does not keep the first ones; use 'expected'"
                )

    def __call__(self, values: Sequence[Any], choice: Tensor) -> Tensor:
        """Values from the first part, choice (N, K) one-hot -> output (N, ...)."""
        return self.runner.with_(choice)(*values)


class _Runner(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, segments: Sequence[nn.Module]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.parts = segments
        self.choice: Tensor | None = None

    def with_(self, choice: Tensor) -> Callable[..., Tensor]:
        self.choice = choice
        return self.run

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.module.get_submodule(target)
        layers = [segment.get_submodule(target) for segment in self.parts]
        if isinstance(layer, BatchNorm):
            return self._normalised(layer, layers, args[0])  # pyright: ignore[reportArgumentType]
        if isinstance(layer, nn.Conv2d | nn.Linear):
            sizes = [int(w.get_parameter("weight").shape[0]) for w in layers]
            return self._cut(layer(*args, **kwargs), sizes)
        return layer(*args, **kwargs)

    def _cut(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        if len(set(sizes)) == 1:
            return x
        return x * self._mixed(
            [torch.ones(s, dtype=x.dtype, device=x.device) for s in sizes], x.shape[1]
        ).reshape(len(x), -1, *[1] * (x.ndim - 2))

    def _mixed(self, vectors: Sequence[Tensor], channels: int) -> Tensor:
        """Each input's own of K vectors, padded by zeros: (N, channels)."""
        assert self.choice is not None
        # Vectors (1, 1) and (1, 1, 1, 1), choices ((1, 0), (0, 1)): the table is ((1, 1, 0, 0), (1, 1, 1, 1)), and
        # (N, K) @ (K, C) picks row 0 for input 0 and row 1 for input 1. A product, not an index: it has a gradient.
        table = torch.stack([F.pad(v, (0, channels - len(v))) for v in vectors])
        return self.choice @ table.to(self.choice)

    def _normalised(self, layer: BatchNorm, norms: Sequence[BatchNorm], x: Tensor) -> Tensor:
        # F.batch_norm takes one mean per channel; here every input has its own, so the formula is written out.
        shape = (len(x), -1, *[1] * (x.ndim - 2))
        means = self._mixed([norm.running_mean for norm in norms], x.shape[1])  # pyright: ignore[reportArgumentType]
        variances = self._mixed([norm.running_var for norm in norms], x.shape[1])  # pyright: ignore[reportArgumentType]
        y = (x - means.reshape(shape)) * (variances + layer.eps).rsqrt().reshape(shape)
        if layer.affine:
            y = y * layer.weight.reshape(1, -1, *shape[2:]) + layer.bias.reshape(1, -1, *shape[2:])
        return self._cut(y, [norm.num_features for norm in norms])


def published_losses(
    routes: Routes,
    gates: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    config: GateConfig,
    costs: RouteCosts,
    *,
    noise: torch.Generator | None,
) -> tuple[Tensor, float]:
    """The three losses of arXiv 2103.13258, section 3.3, as published: see `GateConfig`.

    The classification loss reaches the gate through the masks, the cost through the drawn choice, the sparsifying loss through the
    probabilities with noise.
    """
    masked = Masked(routes)
    with torch.no_grad():
        feature, *values = masked.first(images)
    logits = gates[0](feature)
    soft, hard = straight_through(logits, temperature=config.temperature, noise=noise)
    output = masked(values, hard)
    with torch.no_grad():
        extreme_leaves = [Leaf(route=(k,), output=masked.parts[k](*values)) for k in (0, routes.choices - 1)]
    # Only the narrowest and the widest outputs decide which inputs are easy; those between are not needed.
    to_widest = wanted(extreme_leaves, labels, hard=config.hard)
    gate_logits = soft if config.double_softmax else soft.clamp_min(1e-12).log()
    sparsifying_loss = sparsification_loss(
        [Node(route=(), logits=gate_logits)], to_widest, smoothing=config.smoothing, double_softmax=False
    )
    mean_macs = (hard @ costs.routes.to(hard)).mean()
    excess = mean_macs / 1e9 if config.target is None else mean_macs / config.target - 1
    classification_loss = F.cross_entropy(output, labels, label_smoothing=config.smoothing)
    sparsify, weight = config.weights
    return classification_loss + sparsify * sparsifying_loss + weight * excess.square(), float(
        mean_macs.detach()
    )
