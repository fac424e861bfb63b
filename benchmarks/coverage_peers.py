"""Torch-Pruning and torch-kirigami on a model, each as its documentation says, to about half the multiply-adds (or parameters).

A tool takes a model and an example, and returns the pruned network and the CPU-seconds of one analysis and pruning.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.tracing.model_outputs import free_names, named_tensors
from anywidth.tracing.trace import call
from coverage_laws import counted_macs

_ATTEMPTS = 4
Pruning = Callable[[nn.Module, Any], tuple[nn.Module, float]]


def latency(model: nn.Module, example: Any, runs: int = 5) -> float:
    """Milliseconds of a forward: the median wall time of `runs`, after one that does not count."""
    times = []
    with torch.no_grad():
        for _ in range(runs + 1):
            start = time.perf_counter()
            call(model, example)
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


@torch.no_grad()
def _last_layers(model: nn.Module, example: Any) -> list[nn.Module]:
    """Layers whose output is the model's, as far as their memory shows, or has as many channels as one of its outputs: they must stay."""
    written: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        m.register_forward_hook(
            lambda m, args, out: written.append((m, out)) if isinstance(out, Tensor) else None
        )
        for m in model.modules()
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    out = call(model, example)
    free = free_names(out)
    results = [t for n, t in named_tensors(out) if n not in free]
    returned = {t.untyped_storage().data_ptr() for t in results}
    channels = {t.shape[d] for t in results for d in (1, -1) if t.ndim > 1}
    for h in hooks:
        h.remove()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    last = [m for m, t in written if t.untyped_storage().data_ptr() in returned]
    last += [m for m in layers if getattr(m, "out_features", getattr(m, "out_channels", 0)) in channels]
    return list(dict.fromkeys(last))


def _separate_heads(model: nn.Module) -> dict[nn.Module, int]:
    """Heads of queries, keys and values of Hugging Face's attentions, as its examples for language models give them."""
    heads: dict[nn.Module, int] = {}
    for m in model.modules():
        size = getattr(m, "head_dim", None) or getattr(m, "attention_head_size", None)
        for name in ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin"):
            layer = getattr(m, name, None)
            if isinstance(layer, nn.Linear) and isinstance(size, int):
                heads[layer] = layer.out_features // size
    return heads


def _torch_pruning_once(model: nn.Module, example: Any, ratio: float) -> float:
    """One call of its pruner, in place; CPU-seconds."""
    import torch_pruning as tp

    # As its examples for timm: heads of a fused projection, and the attributes of attentions after the step.
    fused: list[Any] = [
        m
        for m in model.modules()
        if isinstance(getattr(m, "qkv", None), nn.Linear) and hasattr(m, "num_heads")
    ]
    heads = {m.qkv: m.num_heads for m in fused} | _separate_heads(model)
    last = _last_layers(model, example)
    start = time.process_time()
    pruner = tp.pruner.BasePruner(
        model, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=ratio, ignored_layers=last,
        num_heads=heads, prune_num_heads=bool(heads),
        output_transform=lambda out: [t for _, t in named_tensors(out) if t.is_floating_point() and t.grad_fn is not None],
    )  # fmt: skip
    pruner.step()
    for m in fused:
        m.num_heads = pruner.num_heads[m.qkv]
        m.head_dim = m.qkv.out_features // (3 * m.num_heads)
        if hasattr(m, "attn_dim"):
            m.attn_dim = m.num_heads * m.head_dim
    return time.process_time() - start


def by_torch_pruning(model: nn.Module, example: Any) -> tuple[nn.Module, float]:
    """Its pruner takes a share of channels, so that the share that leaves half the multiply-adds is searched for.

    The seconds are those of the last call alone.
    """
    whole, ratio, low, high = counted_macs(model, example), 0.3, 0.0, 1.0
    for _ in range(_ATTEMPTS):
        pruned = copy.deepcopy(model)
        seconds = _torch_pruning_once(pruned, example, ratio)
        share = counted_macs(pruned, example) / max(whole, 1)
        if abs(share - 0.5) <= 0.05:
            break
        low, high = (ratio, high) if share > 0.5 else (low, ratio)
        ratio = (low + high) / 2
    return pruned, seconds


def by_kirigami(model: nn.Module, example: Any) -> tuple[nn.Module, float]:
    """Its budget counts parameters: half of them."""
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import Greedy, GroupMagnitude, ParameterBudget, Pruner

    start = time.process_time()
    kwargs = example if isinstance(example, dict) else {}
    args = () if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
    graph = DependencyGraph.build(model, args=args, kwargs=kwargs)
    pruner = Pruner(model, graph=graph)
    pruned, _ = pruner.prune(
        pruner.discover_candidates(),
        budget=ParameterBudget.from_ratio(model, 0.5),
        strategy=Greedy(GroupMagnitude(p=2)),
    )
    return pruned, time.process_time() - start


TOOLS: dict[str, Pruning] = {
    "torch-pruning": by_torch_pruning,
    "torch-kirigami": by_kirigami,
}


def pruned(prune: Pruning, model: nn.Module, example: Any) -> dict[str, Any]:
    """Prune, run, and measure what came out.

    Returns:
        `ok`: whether outputs are finite (as far as the wide network's are) and of the same shapes, on fewer multiply-adds; `seconds`
        of CPU, `macs` and `params` as shares of the wide network's, and milliseconds of a forward of both.
    """
    with torch.no_grad():
        before = _results(model, example)
    macs, params = counted_macs(model, example), sum(p.numel() for p in model.parameters())
    wide_ms = latency(model, example)
    small, seconds = prune(model, example)
    small.eval()
    with torch.no_grad():
        after = _results(small, example)
    finite = _finite(after) or not _finite(before)
    # The first dimension may be a number of detections.
    shapes = before.keys() == after.keys() and all(
        t.shape[1:] == after[n].shape[1:] for n, t in before.items()
    )
    share = counted_macs(small, example) / max(macs, 1)
    return {
        "ok": finite and shapes and (share < 0.95 or macs == 0),
        "finite": finite,
        "shapes": shapes,
        "seconds": seconds,
        "macs": share,
        "params": sum(p.numel() for p in small.parameters()) / max(params, 1),
        "wide_ms": wide_ms,
        "ms": latency(small, example),
    }


def _results(model: nn.Module, example: Any) -> dict[str, Tensor]:
    """Outputs without bookkeeping like caches, whose size may change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        out = call(model, example)
    free = free_names(out)
    return {n: t for n, t in named_tensors(out) if n not in free}


def _finite(out: dict[str, Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in out.values() if t.is_floating_point())
