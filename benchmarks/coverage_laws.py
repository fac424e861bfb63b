"""What an elastic network must obey, as numbers: every function gives the gap between two computations of the same thing."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.errors import WidthError
from anywidth.tracing.model_outputs import named_tensors
from anywidth.tracing.trace import call

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
"""Largest gap that counts as equal. Models of float64 have parts in float32, as norms and positions in language models."""


def cast(example: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda t: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, example)


def outputs(model: nn.Module, example: Any) -> dict[str, Tensor]:
    """All outputs by name; what a model draws is the same in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {n: t for n, t in named_tensors(call(model, example)) if not t.is_complex()}


def loss(out: dict[str, Tensor]) -> Tensor:
    """The mean square of all floating outputs."""
    vectors = [t.double().flatten() for t in out.values() if t.is_floating_point()]
    return torch.cat(vectors).nan_to_num(0.0, 0.0, 0.0).square().mean()


def gap(a: dict[str, Tensor], b: dict[str, Tensor], free: Collection[str] = ()) -> float:
    """The largest difference of an output, as a share of its largest entry; infinite where names or shapes differ."""
    if a.keys() != b.keys():
        return float("inf")
    worst = 0.0
    for name, y in b.items():
        x = a[name]
        if name in free or (not y.numel() and x.shape == y.shape):
            continue
        if x.shape != y.shape:
            return float("inf")
        if not y.is_floating_point():
            worst = max(worst, float((x != y).any()))
            continue
        x, y = x.double(), y.double()
        same = (x == y) | (x.isnan() & y.isnan())  # equal infinities would give nan
        difference = (x - y).abs().masked_fill(same, 0.0).nan_to_num(float("inf"))
        size = float(y.abs().nan_to_num(0.0, 0.0, 0.0).max())
        worst = max(worst, float(difference.max()) / max(size, 1e-30))
    return worst


def with_statistics_(net: aw.Elastic, width: Any, example: Any) -> None:
    """Batch norms get statistics of this width, from the example and what lies around it; the network is in evaluation mode then."""
    if net.norms.ready(width):
        net.eval()
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        if isinstance(example, Tensor):
            batch = torch.cat([example, *(torch.randn_like(example) for _ in range(3))])
            net.train().calibrate([batch], [width], batches=1)
        elif isinstance(example, tuple) and len(example) == 1:
            images = [*example[0], *(torch.rand_like(image) for image in example[0] * 3)]
            net.train().calibrate([(images,)], [width], batches=1)
        else:
            net.list_width_(repr(width), width)
            call(net.train().at(width), example)
    net.eval()


class _Loss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, example: Any) -> Tensor:
        return loss(outputs(self.model, example))


def sliced_gradients(net: aw.Elastic, small: nn.Module, width: Any, example: Any) -> dict[str, Tensor | None]:
    """Gradients of the wide parameters by autograd through slices made here, without `anywidth.views`."""
    wide = {n: p.detach().clone().requires_grad_() for n, p in net.model.named_parameters()}
    narrow = {}
    for name, p in wide.items():
        for dim, axis in enumerate(net.space.axes.get(name, ())):
            if axis is None:
                continue
            keep, start = [], 0
            for r in axis:
                for unit in range(r.count):
                    if r.group < 0 or r.first + unit < width.kept[r.group]:
                        keep += range(start + unit * r.each, start + (unit + 1) * r.each)
                start += r.count * r.each
            p = p.index_select(dim, torch.tensor(keep))
        narrow[f"model.{name}"] = p
    torch.func.functional_call(_Loss(small), narrow, (example,)).backward()
    return {n: p.grad for n, p in wide.items()}


def _has_gradients(model: nn.Module, example: Any) -> bool:
    """Not where a model overwrites in evaluation what its own gradient needs."""
    try:
        loss(outputs(model, example)).backward()
    except RuntimeError:
        return False
    return True


def gradient_gap(net: aw.Elastic, small: nn.Module, width: Any, example: Any) -> float | None:
    """Gradients of the view against those through slices; None where all are zero, and where the wide model itself has none."""
    net.zero_grad(set_to_none=True)
    with sdpa_kernel(SDPBackend.MATH):
        try:
            loss(outputs(net.at(width), example)).backward()
        except RuntimeError:
            if _has_gradients(net.model, example):
                raise
            return None
        expected = sliced_gradients(net, small, width, example)
    gradients = {n: p.grad for n, p in net.model.named_parameters() if p.requires_grad}
    if any(
        (gradients[n] is None) != (expected[n] is None or not expected[n].any()) and bool(
            (gradients[n] if expected[n] is None else expected[n]).any()  # type: ignore[union-attr]
        )
        for n in gradients
    ):  # fmt: skip
        return float("inf")
    pairs = [(g, e) for n, g in gradients.items() if g is not None and (e := expected[n]) is not None]
    net.zero_grad(set_to_none=True)
    want = torch.cat([e.double().flatten() for _, e in pairs] or [torch.zeros(1)])
    got = torch.cat([g.double().flatten() for g, _ in pairs] or [torch.zeros(1)])
    finite = want.isfinite() & got.isfinite()
    norm = float(want[finite].norm())
    return float((got - want)[finite].norm()) / norm if norm > 0 else None


@contextmanager
def _without_onednn(model: nn.Module) -> Iterator[None]:
    """The FLOP counter does not know oneDNN's recurrent layers."""
    enabled = torch._C._get_mkldnn_enabled()
    if any(isinstance(m, nn.RNNBase) for m in model.modules()):
        torch._C._set_mkldnn_enabled(False)  # mkldnn.flags sets other flags, too, and warns of one
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def counted_macs(model: nn.Module, example: Any) -> float:
    """Half of torch's FLOP counter."""
    model = copy.deepcopy(model).requires_grad_(
        False
    )  # the counter hooks the gradients of what modules are given
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is unknown to the counter
    try:
        with (
            torch.no_grad(),
            _without_onednn(model),
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):
            outputs(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter.get_total_flops() / 2


def at_width(
    net: aw.Elastic, width: Any, example: Any, *, gradients: bool = True, macs: bool = True
) -> dict[str, Any]:
    """Finite, view = extract, gradients, multiply-adds and parameters at one width."""
    with_statistics_(net, width, example)
    small = net.extract(width).eval().requires_grad_(False)
    with torch.no_grad():
        seen, expected = outputs(net.at(width), example), outputs(small, example)
    row: dict[str, Any] = {
        "finite": all(bool(t.isfinite().all()) for t in expected.values() if t.is_floating_point()),
        "view": gap(seen, expected),
        "params": abs(used_params(small, net) - net.params(width) + used_params(net.model, net, unused=True)),
    }
    if macs:
        row["macs"] = abs(counted_macs(small, example) / max(net.macs(width), 1) - 1)
    if gradients:
        row["gradient"] = gradient_gap(net, small, width, example)
    return row


def used_params(model: nn.Module, net: aw.Elastic, unused: bool = False) -> int:
    """Parameters that the forward uses, or those it does not: Hugging Face's classes build the latter to the size of the config."""
    return sum(p.numel() for n, p in model.named_parameters() if (n in net.space.unused) == unused)


@torch.no_grad()
def reorder_gap(net: aw.Elastic, example: Any) -> float:
    """All groups that may be permuted, in random orders: the wide network's outputs against those before."""
    other = copy.deepcopy(net).eval()
    before = outputs(other.model, example)
    generator = torch.Generator().manual_seed(3)
    aw.reorder_(
        other,
        {
            g.name: torch.randperm(g.size, generator=generator).tolist()
            for g in net.space.groups
            if g.permutable
        },
    )
    return gap(outputs(other.model, example), before, set(net.space.free_outputs))


@torch.no_grad()
def masked_gap(net: aw.Elastic, width: Any, example: Any) -> float | str:
    """Zeros in the place of removed channels against the extracted network; the message where that is refused."""
    with_statistics_(net, width, example)
    try:
        masked = aw.prune.masked(net, width).eval()
    except WidthError as error:
        return str(error)
    expected = outputs(net.extract(width).eval(), example)
    return gap(outputs(masked, example), expected, set(net.space.free_outputs))


@torch.no_grad()
def pretrained_gap(net: aw.Elastic, example: Any) -> float | str:
    """Half the network, saved, and built again by its own class from its config; the message where that is refused."""
    width = net.space.uniform(0.5)
    with_statistics_(net, width, example)
    small: Any = net.extract(width).eval()
    with tempfile.TemporaryDirectory() as folder:
        try:
            small.save_pretrained(folder)
        except WidthError as error:
            return str(error)
        model: Any = type(net.model)
        rebuilt = model.from_pretrained(folder, dtype=next(small.parameters()).dtype).eval()
    experts = getattr(net.model.config, "_experts_implementation", None)
    if experts is not None:
        rebuilt.config._experts_implementation = experts
    return gap(outputs(rebuilt, example), outputs(small, example))


def double_(net: aw.Elastic, example: Any, seconds: float = 0.3) -> tuple[aw.Elastic, Any, torch.dtype]:
    """Network and example in float64 where the model runs in it, and a forward takes at most these CPU-seconds, else in float32."""
    try:
        wide, exact = copy.deepcopy(net).double(), cast(example, torch.float64)
        start = time.process_time()
        with torch.no_grad():
            outputs(wide.model, exact)
        if time.process_time() - start > seconds:
            return net, example, torch.float32
    except Exception:
        return net, example, torch.float32
    wide.set_example_(exact)
    return wide, exact, torch.float64
