"""The first part of a network, which widths that keep the same of it share: it runs once for all of them.

The trunk of dynamic slimmable networks is narrow (arXiv 2103.13258, section 3.3): all sub-networks but the largest share it, in
training, in calibration and behind a gate.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from anywidth.compat.layers import BatchNorm, DropoutLayer
from anywidth.compat.module_state import buffers_of
from anywidth.errors import WidthError
from anywidth.graph.partition import Cut, Part, split
from anywidth.norms.bank import NormPolicy, batch_norms
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width
from anywidth.views import holding, instead

_RANDOM = re.compile(
    r"(feature_)?(alpha_)?dropout[123]?d?_?|stochastic_depth|drop_(path|block)\w*|bernoulli_?|multinomial|normal_?|uniform_|"
    r"exponential_|rand(n|int|perm)?(_like)?|rrelu_?|gumbel_softmax"
)
Moments = dict[str, tuple[Tensor, Tensor]]
"""Path of a batch norm -> mean and unbiased variance of a batch."""


class Trunk:
    """Where the shared part of a network's views ends.

    Args:
        space: of the network.
        norm: its policy; `switchable` norms differ from width to width, so nothing is shared.
        at: path of the module whose output ends the trunk.

    Raises:
        WidthError: switchable norms.
    """

    def __init__(self, space: ChannelSpace, norm: NormPolicy, at: str) -> None:
        if norm == "switchable":
            raise WidthError(
                f"trunk '{at}': with norm='switchable' every width has its own batch norms in it, so it cannot be shared; use "
                "norm='shared', or no trunk"
            )
        self.space, self.at = space, at
        self._cut: WeakKeyDictionary[nn.Module, dict[bool, tuple[Part, Part]]] = WeakKeyDictionary()
        self._groups: list[int] | None = None

    def parts(self, view: nn.Module) -> tuple[Part, Part]:
        """The trunk of a view and what follows it.

        Raises:
            TraceError: no such module, or a network that torch.fx cannot trace.
            WidthError: a trunk with dropout or the like, which differs from pass to pass.
        """
        parts_by_mode = self._cut.setdefault(view, {})
        if view.training not in parts_by_mode:
            trunk_part, tail_part = split(view, [Cut(at=self.at)])
            for path, m in trunk_part.module.named_modules():
                if isinstance(m, DropoutLayer) and m.p > 0:
                    raise WidthError(
                        f"trunk '{self.at}': '{path}' in it drops other units at every pass; end the trunk before it"
                    )
            for node in trunk_part.module.graph.nodes:
                if view.training and _random(node):
                    raise WidthError(
                        f"trunk '{self.at}': '{node.target if isinstance(node.target, str) else node.target.__name__}' in it draws random "
                        "numbers at every pass; end the trunk before it"
                    )
            parts_by_mode[view.training] = (trunk_part, tail_part)
        return parts_by_mode[view.training]

    def kept(self, view: nn.Module, width: Width) -> Hashable:
        """What decides whether two widths share their trunk."""
        if self._groups is None:
            names = self.parts(view)[0].tensors
            axes = (axis for name in names for axis in self.space.axes.get(name, ()) if axis is not None)
            self._groups = sorted({run.group for axis in axes for run in axis if run.group >= 0})
        return tuple(width.kept[g] for g in self._groups)


def _random(node: fx.Node) -> bool:
    """Whether an operation draws random numbers: dropout and the like in functional code."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op not in ("call_function", "call_method") or not _RANDOM.fullmatch(name):
        return False
    if callable(node.target) and "training" in (known := _arguments(node.target, node)):
        return bool(known["training"]) and known.get("p") != 0
    return True


def _arguments(function: Callable[..., Any], node: fx.Node) -> dict[str, Any]:
    try:
        bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # a builtin
        return {}
    bound.apply_defaults()
    return bound.arguments


class Once:
    """A batch whose trunk runs once for all views that share it.

    Args:
        trunk: of the network.
        x: the network's input (N, ...).
    """

    def __init__(self, trunk: Trunk, x: Any) -> None:
        self.trunk, self.x = trunk, x
        self._outputs: dict[Hashable, tuple[list[Any], list[Any], Moments]] = {}

    def __call__(self, view: nn.Module, width: Width, *, attached: bool = False) -> Any:
        """The output of a view; batch norms of its trunk update their statistics as if they had run.

        Args:
            view: at `width`.
            width: of the view.
            attached: the backward pass of the output reaches the trunk; otherwise it ends there, and `backward_` continues it.
        """
        # Views at 0.5 and 0.75 that keep the same channels of the trunk have one key: x runs through the trunk once, with the norms'
        # statistics caught in `moments`, and each view adds them to its own statistics.
        # The tails get detached leaves, so that the backward pass of each ends there; their gradients add up in the leaves, and
        # `backward_` carries the sum through the trunk in one pass.
        trunk_part, tail_part = self.trunk.parts(view)
        key = self.trunk.kept(view, width)
        if key not in self._outputs:
            with _moments(trunk_part.module) as moments:
                _, *values = trunk_part.module(self.x)
            leaves = [_leaf(v) for v in values]
            self._outputs[key] = (values, leaves, moments)
        values, leaves, moments = self._outputs[key]
        _update_(trunk_part.module, moments)
        return tail_part.module(*(values if attached else leaves))

    def pending(self) -> list[tuple[Tensor, Tensor]]:
        """Outputs of all trunks, with the gradients that the backward passes of views left there so far."""
        return [
            (value, leaf.grad)
            for values, leaves, _ in self._outputs.values()
            for value, leaf in zip(values, leaves, strict=True)
            if isinstance(leaf, Tensor) and leaf.grad is not None
        ]

    def backward_(self) -> None:
        """After the backward passes of all views: that of the trunks."""
        if pending := self.pending():
            torch.autograd.backward([value for value, _ in pending], [gradient for _, gradient in pending])


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


@contextmanager
def _moments(module: nn.Module) -> Iterator[Moments]:
    """Statistics of the batch that runs through the norms of a module, which stay as they are."""
    norms = {p: m for p, m in batch_norms(module).items() if m.training}
    moments: Moments = {}
    with ExitStack() as stack:
        for p, m in norms.items():
            mean, variance = (buffers_of(m)[name] for name in ("running_mean", "running_var"))
            assert mean is not None
            assert variance is not None
            moments[p] = (torch.zeros_like(mean), torch.zeros_like(variance))
            count = torch.zeros((), dtype=torch.long)
            stack.enter_context(
                instead(m, running_mean=moments[p][0], running_var=moments[p][1], num_batches_tracked=count)
            )
            # momentum 1: running_mean = batch mean, running_var = unbiased batch variance.
            stack.enter_context(holding(m, momentum=1.0))
        yield moments


@torch.no_grad()
def _update_(module: nn.Module, moments: Moments) -> None:
    """What a forward pass of the norms would have done to their statistics."""
    for path, (mean, variance) in moments.items():
        m = module.get_submodule(path)
        assert isinstance(m, BatchNorm)
        assert m.running_mean is not None
        assert m.running_var is not None
        factor = m.momentum
        if m.num_batches_tracked is not None:
            m.num_batches_tracked.add_(1)
            factor = 1 / float(m.num_batches_tracked) if m.momentum is None else m.momentum
        # Without a momentum and without a count torch leaves the statistics as they are.
        factor = 0.0 if factor is None else factor
        m.running_mean.mul_(1 - factor).add_(mean, alpha=factor)
        m.running_var.mul_(1 - factor).add_(variance, alpha=factor)
