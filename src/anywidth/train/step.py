"""One training step: the gradients that several widths leave in the wide network."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from anywidth.elastic import Elastic
from anywidth.train.policies import Widths
from anywidth.train.targets import Context, Target, widest
from anywidth.trunk import Once, Trunk
from anywidth.view import holding
from anywidth.width import Width


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
    target = widest() if target is None else target
    order = list(range(len(widths)))
    if getattr(target, "descending", False):
        order.sort(key=lambda i: -net.macs(widths[i]))
    low = narrowest(net, widths) if getattr(target, "redraws", False) else None
    losses: dict[int, Tensor] = {}
    top = None if net.width(widths[0]) == net.space.full else widths[0]
    context = Context(teacher=_once(how.teacher, images, top), redrawn=how.redrawn)
    once = None if how.trunk is None else Once(how.trunk, images)
    for index in order:
        view, last = how.view(net, widths[index]), index == order[-1]
        context.narrowest = index == low
        forward = partial(_forward, view, net.width(widths[index]), images, once, last)
        dropout = without_dropout(view) if how.dropout_on == "widest" and index else nullcontext()
        with dropout, how.synchronised(last):
            with how.autocast():
                out, trunks = how.run(forward)
            logits = _in_full(out)
            loss = target(logits, labels, context)
            gradients = [gradient for _, gradient in once.pending()] if trunks and once is not None else []
            torch.autograd.backward([how.scale(loss), *trunks], [None, *gradients])
        losses[index] = loss.detach()
        context.seen.append(logits.detach())
    return torch.stack([losses[index] for index in range(len(widths))])


def _forward(
    view: nn.Module, width: Width, images: Tensor, once: Once | None, last: bool
) -> tuple[Any, list[Tensor]]:
    """The output of a view, and the outputs of trunks whose backward pass is due with it.

    A parameter may get its gradient only once in the backward pass that is synchronised, so the last one of a step takes all trunks
    along: that of the last width through the network, the others by the gradients that the earlier passes left.
    """
    if once is None:
        return view(images), []
    out = once(view, width, attached=last)
    return out, [value for value, _ in once.pending()] if last else []


def narrowest(net: Elastic, widths: Widths) -> int:
    """The place of the width with the fewest multiply-adds, the first of several."""
    return min(range(len(widths)), key=lambda i: net.macs(widths[i]))


def dropouts(model: nn.Module) -> list[nn.Module]:
    """Dropout layers of torch."""
    return [m for m in model.modules() if isinstance(m, _DropoutNd)]


@contextmanager
def without_dropout(view: nn.Module) -> Iterator[None]:
    """Dropout layers do nothing; the backward pass belongs here too, as it may compute activations anew."""
    with ExitStack() as stack:
        for m in dropouts(view):
            if m.training:
                stack.enter_context(holding(m, training=False))
        yield


def _in_full(logits: Tensor) -> Tensor:
    """Losses are taken in float32 at least."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _once(
    teacher: Callable[[Tensor, Any], Tensor] | None, images: Tensor, widest: Any
) -> Callable[..., Tensor] | None:
    """The teacher's logits at each width, the widest of the step by default, computed when first asked for and then kept."""
    if teacher is None:
        return None
    return functools.cache(lambda width=None: _in_full(teacher(images, widest if width is None else width)))
