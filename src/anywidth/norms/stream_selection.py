"""Streams that keep their width while the layers that read them choose channels.

In a pre-activation residual or a dense network a batch norm reads a stream that many layers write. *Selection* lets every
such norm hand on a subset of its own, through an index that is a buffer; the stream stays as it is. The index is a channel
axis like any other, so widths, costs and extraction need no rule of their own for it.
(Network Slimming, arXiv 1708.06519, sec. 3.3, "handling cross layer connections".)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from anywidth.channel_select import select_
from anywidth.compat.layers import BatchNorm, Convolution
from anywidth.errors import TraceError
from anywidth.tracing.model_outputs import tensors_in
from anywidth.tracing.trace import call
from anywidth.tracing.untouched import untouched


class _Uses(TorchFunctionMode):
    """Counts how often every tensor is read; what is changed in place is not read by anyone else."""

    def __init__(self) -> None:
        super().__init__()
        self.count: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # relu_(bn(x)) overwrites its input, so nobody else sees the value before; attribute access and size queries read no values.
        in_place = kwargs.get("inplace") or (name.endswith("_") and not name.endswith("__"))
        if not in_place and not name.startswith("__get") and name not in ("size", "dim", "numel"):
            for t in tensors_in([*args, *kwargs.values()]):
                self.count[t] = (self.count.get(t) or 0) + 1
        return func(*args, **kwargs)


def fed_by(model: nn.Module, example: Any) -> dict[str, str | None]:
    """Path of every batch norm -> the layer whose output it reads, None if it reads a stream.

    A stream is anything else than the output of one convolution or linear layer that nothing else reads.

    Raises:
        TraceError: the model does not run on the example.
    """
    # conv -> bn: {"bn": "conv"}. conv -> (bn, skip connection): the output of conv is used twice, {"bn": None}. x + f(x) -> bn: no
    # layer produced the sum, {"bn": None}. A norm that runs twice in a forward reads no single layer either.
    paths = {m: p for p, m in model.named_modules()}
    layers = (nn.Linear, Convolution)
    read: dict[str, list[Tensor]] = {}
    producers: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def enter(module: nn.Module, args: Any) -> None:
        read.setdefault(paths[module], []).append(args[0])

    def leave(module: nn.Module, args: Any, out: Tensor) -> None:
        producers[out] = paths[module]

    modes = {m: m.training for m in model.modules()}
    hooks = [m.register_forward_pre_hook(enter) for m in paths if isinstance(m, BatchNorm)]
    hooks += [m.register_forward_hook(leave) for m in paths if isinstance(m, layers)]
    uses = _Uses()
    try:
        model.eval()
        with torch.no_grad(), untouched(model), uses:
            call(model, example)
    except Exception as error:
        raise TraceError(f"{type(model).__name__} failed on its example inputs: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for m, mode in modes.items():
            m.training = mode
    single_inputs = {p: t[0] for p, t in read.items() if len(t) == 1}
    return {
        p: producers.get(single_inputs[p])
        if p in single_inputs and uses.count.get(single_inputs[p], 0) == 1
        else None
        for p in read
    }


def reading_subsets(model: nn.Module, norms: Iterable[str]) -> nn.Module:
    """The same network, sharing all parameters and buffers, whose norms `norms` select (everything, so far)."""
    # As the memo of `deepcopy`: tensors listed in it count as copied already, so only the modules are new.
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    selecting = copy.deepcopy(model, shared)
    for path in norms:
        norm = selecting.get_submodule(path)
        assert isinstance(norm, BatchNorm)
        select_(norm, torch.arange(norm.num_features, device=next(iter(norm.buffers())).device))
    return selecting
