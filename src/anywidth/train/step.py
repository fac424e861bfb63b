"""One training step: the gradients that several widths leave in the wide network."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anywidth.compat.layers import DropoutLayer
from anywidth.elastic import Elastic
from anywidth.graph.shared_prefix import Once, Trunk
from anywidth.space.width import Width
from anywidth.train.policies import Widths
from anywidth.train.targets import Context, Target, as_target, widest
from anywidth.views import holding


@dataclass(frozen=True, kw_only=True)
class Pass:
    """How forward and backward passes of a step are run.

    Attributes:
        autocast: makes the context of a forward pass.
        scale: loss -> what is differentiated (a gradient scaler, the share of a micro-batch).
        view: network, width -> the module that runs.
        run: calls what runs the forward pass of one width. Every tensor that the backward pass starts from is in its result.
        synchronised: makes the context of a width's forward and backward pass; is told whether it is the last of the step, in whose
            backward pass the gradients become means over processes.
        teacher: images, width or None for the whole network -> logits of the moving average; None where there is none.
        redrawn: widths at which the moving average teaches, besides its widest.
        trunk: the first part of the network, which runs once for all widths that share it; None: at every width.
        dropout_on: "all", or "widest": only the first width of the step has dropout.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    scale: Callable[[Tensor], Tensor] = lambda loss: loss
    view: Callable[[Elastic, Any], nn.Module] = Elastic.at
    run: Callable[[Callable[[], Any]], Any] = lambda forward: forward()
    synchronised: Callable[[bool], AbstractContextManager[Any]] = lambda last: nullcontext()
    teacher: Callable[[Tensor, Any], Tensor] | None = None
    redrawn: Widths = ()
    trunk: Trunk | None = None
    dropout_on: Literal["all", "widest"] = "all"


def accumulate_(
    net: Elastic,
    images: Tensor,
    labels: Tensor,
    widths: Widths,
    *,
    target: Target | None = None,
    how: Pass = Pass(),
) -> Tensor:
    """Run every width forward and backward; the gradients add up in the parameters of `net`.

    The losses are summed, not averaged, over widths.

    Args:
        net: in training mode.
        images: (N, ...).
        labels: (N,) class numbers, or (N, classes) probabilities.
        widths: the widest first.
        target: what each width learns from; by default the widest from the labels, the others from the widest.
        how: precision, compilation, reduction over processes.

    Returns:
        (len(widths),) losses, detached, on the device of the network.
    """
    target = widest() if target is None else as_target(target)
    # widths (1.0, 0.25, 0.6): run in this order, or for targets that go down a chain as 1.0, 0.6, 0.25; losses are returned in
    # the order of `widths`. Every width runs backward before the next one starts, so one graph is alive at a time.
    order = list(range(len(widths)))
    if target.descending:
        order.sort(key=lambda i: -net.macs(widths[i]))
    low = narrowest(net, widths) if target.redraws else None
    losses: dict[int, Tensor] = {}
    # None stands for the whole network, whose statistics a moving average always has.
    top = None if net.width(widths[0]) == net.space.full else widths[0]
    context = Context(teacher=_cached_teacher(how.teacher, images, top), redrawn=how.redrawn)
    trunk_cache = None if how.trunk is None else Once(how.trunk, images)
    for index in order:
        view, is_final = how.view(net, widths[index]), index == order[-1]
        context.narrowest = index == low
        forward = partial(_forward, view, net.width(widths[index]), images, trunk_cache, is_final)
        dropout = without_dropout(view) if how.dropout_on == "widest" and index else nullcontext()
        with dropout, how.synchronised(is_final):
            with how.autocast():
                out, trunks = how.run(forward)
            logits = _in_full(out)
            loss = target(logits, labels, context)
            # A trunk runs once: narrow passes leave gradients at its output, which go through it together in the last pass.
            gradients = (
                [gradient for _, gradient in trunk_cache.pending()]
                if trunks and trunk_cache is not None
                else []
            )
            torch.autograd.backward([how.scale(loss), *trunks], [None, *gradients])
        losses[index] = loss.detach()
        context.seen.append(logits.detach())
    return torch.stack([losses[index] for index in range(len(widths))])


def _forward(
    view: nn.Module, width: Width, images: Tensor, trunk_cache: Once | None, is_final: bool
) -> tuple[Any, list[Tensor]]:
    """The output of a view, and the outputs of trunks whose backward pass is due with it.

    A parameter may get its gradient only once in the backward pass that is synchronised, so the last one of a step takes all trunks
    along: that of the last width through the network, the others by the gradients that the earlier passes left.
    """
    if trunk_cache is None:
        return view(images), []
    out = trunk_cache(view, width, attached=is_final)
    return out, [value for value, _ in trunk_cache.pending()] if is_final else []


def narrowest(net: Elastic, widths: Widths) -> int:
    """The place of the width with the fewest multiply-adds, the first of several."""
    return min(range(len(widths)), key=lambda i: net.macs(widths[i]))


def dropouts(model: nn.Module) -> list[nn.Module]:
    """Dropout layers of torch."""
    return [m for m in model.modules() if isinstance(m, DropoutLayer)]


@contextmanager
def without_dropout(view: nn.Module) -> Iterator[None]:
    """Dropout layers do nothing; the backward pass belongs here too, as it may compute activations anew."""
    with ExitStack() as stack:
        for m in dropouts(view):
            # Only layers that are on, so that those which a user switched off stay off.
            if m.training:
                stack.enter_context(holding(m, training=False))
        yield


def _in_full(logits: Tensor) -> Tensor:
    """Losses are taken in float32 at least."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _cached_teacher(
    teacher: Callable[[Tensor, Any], Tensor] | None, images: Tensor, widest: Any
) -> Callable[..., Tensor] | None:
    """The teacher's logits at each width, the widest of the step by default, computed when first asked for and then kept."""
    if teacher is None:
        return None
    return functools.cache(lambda width=None: _in_full(teacher(images, widest if width is None else width)))
