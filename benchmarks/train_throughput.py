"""Speed of the universally slimmable training step: four widths of one network, images per second.

    python benchmarks/train_throughput.py                                   # on a CPU: small batches and images
    python benchmarks/train_throughput.py --device cuda --batch 256 --size 224 --precision bfloat16
    python benchmarks/train_throughput.py --quick                           # a smoke run

Compared in one process, in turns: our step (views); (a) four independent compact networks of these widths; (b) layers that
slice their full weights inside the autograd graph in every forward pass, with a width attribute on every layer, as public
repositories of slimmable networks do (written for this comparison). Each step is four forward and backward passes, the
widest against the labels and the others against its output, and one update of SGD for each set of weights. Ratios are
medians over turns. Tables go to OUT/results.md,
numbers to OUT/results/.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import anywidth as aw
from anywidth.train import accumulate_
from anywidth.train.step import Pass
from results import publish

WIDTHS = (1.0, 0.75, 0.5, 0.25)


class SlimConv(nn.Module):
    """A convolution that slices its full weight in every forward pass; `active` says to which width."""

    def __init__(self, full: nn.Conv2d, narrow: list[nn.Conv2d]) -> None:
        super().__init__()
        self.weight, self.bias = full.weight, full.bias
        self.options = (full.stride, full.padding, full.dilation)
        self.sizes = [(m.out_channels, m.weight.shape[1], m.groups) for m in narrow]
        self.active = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, inputs, groups = self.sizes[self.active]
        bias = None if self.bias is None else self.bias[:out]
        return F.conv2d(x, self.weight[:out, :inputs], bias, *self.options, groups)


class SlimLinear(nn.Module):
    """A linear layer that slices its full weight."""

    def __init__(self, full: nn.Linear, narrow: list[nn.Linear]) -> None:
        super().__init__()
        self.weight, self.bias = full.weight, full.bias
        self.sizes = [(m.out_features, m.in_features) for m in narrow]
        self.active = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, inputs = self.sizes[self.active]
        return F.linear(x, self.weight[:out, :inputs], self.bias[:out])


class SlimNorm(nn.Module):
    """One affine pair, sliced; statistics for each width."""

    def __init__(self, full: nn.BatchNorm2d, narrow: list[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = full.weight, full.bias, full.eps
        self.own = nn.ModuleList(nn.BatchNorm2d(m.num_features, affine=False) for m in narrow)
        self.active = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own, n = self.own[self.active], x.shape[1]
        return F.batch_norm(
            x, own.running_mean, own.running_var, self.weight[:n], self.bias[:n], True, 0.1, self.eps
        )


class SliceInForward:
    """The whole network of such layers."""

    def __init__(self, net: aw.Elastic) -> None:
        narrow = [net.extract(w) for w in WIDTHS]
        self.model = copy.deepcopy(net.model)
        kinds = {nn.Conv2d: SlimConv, nn.Linear: SlimLinear, nn.BatchNorm2d: SlimNorm}
        for path, module in list(self.model.named_modules()):
            if type(module) in kinds:
                made = kinds[type(module)](module, [n.get_submodule(path) for n in narrow])
                self.model.set_submodule(path, made)
        self.layers = [m for m in self.model.modules() if hasattr(m, "active")]
        self.run: Callable[[torch.Tensor], torch.Tensor] = self.model

    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        for layer in self.layers:
            layer.active = index
        return self.run(x)


def losses_(forwards: list[Callable[[torch.Tensor], torch.Tensor]], x: Any, y: Any, context: Any) -> None:
    """Forward and backward of every width; the first teaches."""
    teacher = None
    for forward in forwards:
        with context():
            logits = forward(x)
        logits = logits.float()
        loss = F.cross_entropy(logits, y) if teacher is None else F.cross_entropy(logits, teacher)
        loss.backward()
        teacher = logits.detach().softmax(1) if teacher is None else teacher


def steps(name: str, where: argparse.Namespace, compiled: bool) -> dict[str, Callable[[], None]]:
    """Our step and the two others, ready to be called."""
    torch.manual_seed(0)
    layout = torch.channels_last if where.channels_last else torch.contiguous_format
    model = torchvision.models.get_model(name, weights=None)
    example = torch.randn(1, 3, where.size, where.size)
    net = aw.Elastic(model, example, widths=WIDTHS).to(where.device, memory_format=layout).train()
    compact = [net.extract(w).train().to(memory_format=layout) for w in WIDTHS]
    sliced = SliceInForward(net)
    sliced.model.train()
    x = torch.randn(where.batch, 3, where.size, where.size, device=where.device).to(memory_format=layout)
    y = torch.randint(0, 1000, (where.batch,), device=where.device)

    def context() -> Any:
        if where.precision == "float32":
            return nullcontext()
        return torch.autocast(where.device, getattr(torch, where.precision))

    def sgd(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    ours, theirs, its = sgd(net), [sgd(m) for m in compact], sgd(sliced.model)
    runs: list[Callable[[torch.Tensor], torch.Tensor]] = list(compact)
    if compiled:
        net.compile(WIDTHS, dynamic=False)
        runs = [torch.compile(m, dynamic=False) for m in compact]
        sliced.run = torch.compile(sliced.model, dynamic=False)

    def views() -> None:
        ours.zero_grad()
        accumulate_(net, x, y, WIDTHS, how=Pass(autocast=context))
        ours.step()

    def independent() -> None:
        for optimiser in theirs:
            optimiser.zero_grad()
        losses_(runs, x, y, context)
        for optimiser in theirs:
            optimiser.step()

    def slices() -> None:
        its.zero_grad()
        losses_([lambda image, i=i: sliced(image, i) for i in range(len(WIDTHS))], x, y, context)
        its.step()

    return {"views": views, "compact": independent, "slices": slices}


def timed(tasks: dict[str, Callable[[], None]], where: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(where.warm + where.repeats):
        for name, task in tasks.items():
            if where.device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            task()
            if where.device == "cuda":
                torch.cuda.synchronize()
            if turn >= where.warm:
                times[name].append(time.perf_counter() - start)
    return times


def row(name: str, where: argparse.Namespace, compiled: bool) -> dict[str, Any]:
    times = timed(steps(name, where, compiled), where)

    def ratio(a: str, b: str) -> float:
        return statistics.median(p / q for p, q in zip(times[a], times[b], strict=True))

    found = {
        "model": name,
        "mode": "compiled" if compiled else "eager",
        **{f"{key} images/s": where.batch / statistics.median(values) for key, values in times.items()},
        "views / compact": ratio("views", "compact"),
        "slices / compact": ratio("slices", "compact"),
        "views / slices": ratio("views", "slices"),
    }
    print(found, flush=True)
    return found


def table(rows: list[dict[str, Any]], where: argparse.Namespace) -> str:
    device = (
        torch.cuda.get_device_name()
        if where.device == "cuda"
        else f"CPU, {torch.get_num_threads()} thread(s)"
    )
    keys = list(rows[0])
    lines = [
        f"Widths {', '.join(map(str, WIDTHS))}, batch {where.batch}, {where.size} x {where.size} pixels, {where.precision}, "
        f"{'channels last, ' if where.channels_last else ''}torch {torch.__version__}, {device}; medians of {where.repeats} turns. "
        "Times relative to each other: below 1 the first is faster.",
        "",
        "| " + " | ".join(keys) + " |",
        "|---|---|" + "---:|" * (len(keys) - 2),
    ]
    for found in rows:
        cells = [
            v if isinstance(v, str) else f"{v:.1f}" if "images" in k else f"{v:.3f}" for k, v in found.items()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--quick", action="store_true")
    where = parser.parse_args()
    torch.set_num_threads(where.threads)
    if where.quick:
        where.models, where.modes, where.batch, where.size, where.repeats = ["resnet18"], ["eager"], 2, 32, 2
    rows = [row(name, where, mode == "compiled") for mode in where.modes for name in where.models]
    settings = {k: str(v) for k, v in vars(where).items() if k != "out"}
    numbers = {"settings": settings, "torch": torch.__version__, "rows": rows}
    publish(where.out, f"train_throughput_{where.device}", table(rows, where), numbers)
    print(table(rows, where))


if __name__ == "__main__":
    main()
