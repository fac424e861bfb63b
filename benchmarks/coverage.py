"""Which models can be made elastic, and is the result right? Beside Torch-Pruning, in the same run.

    python benchmarks/coverage.py                      # all models, table to the terminal
    python benchmarks/coverage.py --jobs 2 --out docs/coverage  # writes coverage.md and coverage.json there
    python benchmarks/coverage.py tv:resnet50 timm:deit_tiny_patch16_224

Every model runs in its own process with a limit of 60 CPU-seconds per tool. For anywidth, at uniform 0.5 and at three
random widths per group: a finite forward; `at(w)` against `extract(w)`; gradients of the view against autograd through
slices made by hand; closed-form MACs against half of torch's FLOP counter. For Torch-Pruning: prune to half the
channels with its documented call and run the result.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CPU_SECONDS = 60
TORCHVISION = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "regnet_x_400mf", "resnet18", "resnet50", "resnext50_32x4d",
    "wide_resnet50_2", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16",
]  # fmt: skip
DETECTORS = ["fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"]
TIMM = [
    "beit_base_patch16_224", "halonet_h1", "mobileone_s0", "repvgg_a0", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convmixer_768_32",
    "convnext_atto", "convnextv2_atto", "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny",
    "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0",
    "tinynet_c", "efficientnet_b0", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224", "fasternet_t0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224",
    "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_resnet_v2", "inception_v4", "lcnetv2_small", "levit_128s",
    "lowformer_b0", "mambaout_femto", "coatnet_nano_rw_224", "maxvit_rmlp_pico_rw_256", "poolformerv2_s12", "mixer_s32_224", "gmlp_ti16_224",
    "resmlp_12_224", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "mobilevit_xxs", "mobilevitv2_050",
    "mvitv2_tiny", "nest_tiny", "nextvit_small", "nf_regnet_b0", "nfnet_f0", "pit_ti_224", "pvt_v2_b0", "rdnet_tiny", "regnetx_002",
    "regnety_002", "repghostnet_050", "repvit_m1", "res2net50_26w_4s", "resnest14d", "resnet14t", "seresnet50", "ecaresnet26t",
    "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18", "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050",
    "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "visformer_tiny", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224",
    "vit_srelpos_small_patch16_224", "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p",
    "xcit_nano_12_p8_224", "vgg11",
]  # fmt: skip


def names() -> list[str]:
    return [f"tv:{n}" for n in TORCHVISION] + [f"det:{n}" for n in DETECTORS] + [f"timm:{n}" for n in TIMM]


def make(name: str) -> tuple[Any, Any]:
    """A freshly initialised model in evaluation mode, and an example of one image."""
    import torch

    torch.manual_seed(0)
    source, _, model = name.partition(":")
    if source == "timm":
        import timm

        net = alive(timm.create_model(model, num_classes=1000).eval())
        size = net.pretrained_cfg.get("input_size", (3, 224, 224))  # type: ignore[union-attr]
        return net, image(net, size[-1])
    import torchvision

    if source == "det":
        net = getattr(torchvision.models.detection, model)(
            weights=None, weights_backbone=None, min_size=160, max_size=160
        )
        return net.eval(), ([torch.rand(3, 160, 160)],)
    net = alive(getattr(torchvision.models, model)(weights=None).eval())
    return net, image(net, 299 if model == "inception_v3" else 224)


def alive(net: Any) -> Any:
    """Heads that are initialised with zeros would make every gradient zero."""
    import torch

    for p in net.parameters():
        if p.ndim > 1 and not bool(p.any()):
            torch.nn.init.normal_(p, std=0.02)
    return net


def image(net: Any, size: int) -> Any:
    """One random image: 128 pixels where the model takes that, else its own size."""
    import torch

    for s in (128, size):
        x = torch.randn(1, 3, s, s)
        try:
            with torch.no_grad():
                net(x)
            break
        except Exception:
            continue
    return x


def flatten(out: Any) -> Any:
    """All floating outputs as one vector."""
    import torch

    from anywidth.tracing.trace_state import tensors_in

    return torch.cat(
        [t.double().flatten() for t in tensors_in(out) if t.is_floating_point()] or [torch.zeros(0)]
    )


def distance(a: Any, b: Any) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30)) if b.numel() else float(a.numel() > 0)


def sliced_gradients(net: Any, small: Any, width: Any, example: Any) -> dict[str, Any]:
    """Gradients of the wide parameters by autograd through slices made here, without `anywidth.views`."""
    import torch

    from anywidth.tracing.trace import call

    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small

        def forward(self, x: Any) -> Any:
            return flatten(call(self.net, x)).square().mean()

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
        narrow[f"net.{name}"] = p
    torch.func.functional_call(Call(), narrow, (example,)).backward()
    return {n: p.grad for n, p in wide.items()}


def check_width(net: Any, width: Any, example: Any) -> dict[str, float]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from anywidth.tracing.trace import call

    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is unknown to the FLOP counter
    if net.norms.needs_check(width):
        generator = torch.Generator().manual_seed(2)
        images = torch.randn(4, *example.shape[1:], generator=generator)
        net.train().calibrate([images], [width], batches=1)
        net.eval()
    small = net.extract(width).eval().requires_grad_(False)
    with torch.no_grad():
        seen, own = flatten(call(net.at(width), example)), flatten(call(small, example))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call(small, example)
    net.zero_grad(set_to_none=True)
    with sdpa_kernel(SDPBackend.MATH):
        flatten(call(net.at(width), example)).square().mean().backward()
        oracle = sliced_gradients(net, small, width, example)
    pairs = [
        (p.grad, oracle[n])
        for n, p in net.model.named_parameters()
        if p.grad is not None and oracle[n] is not None
    ]
    got = torch.cat([a.double().flatten() for a, _ in pairs] or [torch.zeros(1)])
    want = torch.cat([b.double().flatten() for _, b in pairs] or [torch.zeros(1)])
    if not float(want.norm()) > 0 and bool(own.any()):
        raise ArithmeticError(
            "all gradients are zero: nothing was compared"
        )  # zero outputs: LayerNorm of one channel
    missing = [n for n, p in net.model.named_parameters() if (p.grad is None) != (oracle[n] is None)]
    return {
        "finite": float(torch.isfinite(seen).all()),
        "view_vs_extract": distance(seen, own),
        "gradient_error": 1.0 if missing else distance(got, want),
        "mac_error": abs(counter.get_total_flops() / 2 / max(net.macs(width), 1) - 1),
        "param_error": float(sum(p.numel() for p in small.parameters()) != net.params(width)),
    }


def run_anywidth(name: str) -> dict[str, Any]:
    import torch

    import anywidth as aw

    model, example = make(name)
    start = time.process_time()
    net = aw.Elastic(model, example)
    seconds = time.process_time() - start
    resource.setrlimit(
        resource.RLIMIT_CPU, (20 * CPU_SECONDS, 20 * CPU_SECONDS)
    )  # our own checks are not the tool's time
    detector = name.startswith("det:")
    generator = torch.Generator().manual_seed(1)
    widths = [net.space.uniform(0.5), *(net.space.sample(generator) for _ in range(3))]
    rows = [] if detector else [check_width(net, w, example) for w in widths]
    worst = {k: (min if k == "finite" else max)(r[k] for r in rows) for k in rows[0]} if rows else {}
    good = not rows or (
        worst["finite"] == 1.0 and worst["view_vs_extract"] <= 1e-5 and worst["gradient_error"] <= 1e-5
        and worst["mac_error"] == 0.0 and worst["param_error"] == 0.0
    )  # fmt: skip
    ratio = net.macs(0.5) / net.macs(1.0)
    reasons = sorted({f.reason for f in net.space.frozen if "conv" not in f.reason.split("(")[0]})
    return {
        "ok": bool(good), "trace_s": seconds, "mac_ratio": ratio, "groups": len(net.space.groups),
        "attention": any("heads" in a.name for a in net.space.attributes), "unknown": list(net.space.unknown),
        "frozen": reasons, **worst,
    }  # fmt: skip


def run_torch_pruning(name: str) -> dict[str, Any]:
    import torch
    import torch_pruning as tp

    from anywidth.tracing.trace import call

    model, example = make(name)
    start = time.process_time()
    heads = {
        m.qkv: m.num_heads
        for m in model.modules()
        if isinstance(getattr(m, "qkv", None), torch.nn.Linear) and hasattr(m, "num_heads")
    }
    last = [
        m
        for m in model.modules()
        if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
        and getattr(m, "out_features", getattr(m, "out_channels", 0)) == 1000
    ]
    macs, _ = tp.utils.count_ops_and_params(model, example)
    pruner = tp.pruner.BasePruner(
        model, example, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=last,
        num_heads=heads, prune_num_heads=bool(heads),
    )  # fmt: skip
    pruner.step()
    with torch.no_grad():
        out = flatten(call(model, example))
    after, _ = tp.utils.count_ops_and_params(model, example)
    ok = bool(torch.isfinite(out).all()) and after < 0.95 * macs
    return {"ok": ok, "trace_s": time.process_time() - start, "mac_ratio": after / macs}


def worker(tool: str, name: str) -> None:
    import os
    import warnings

    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        result = {"anywidth": run_anywidth, "torch-pruning": run_torch_pruning}[tool](name)
    except Exception as error:
        text = str(error).splitlines()
        result = {"ok": False, "error": f"{type(error).__name__}: {text[0] if text else ''}"[:300]}
    print("RESULT " + json.dumps(result))


def launch(tool: str, name: str) -> dict[str, Any]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, 20 * CPU_SECONDS))

    command = [sys.executable, __file__, "--worker", tool, name]
    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if lines:
        return json.loads(lines[-1][len("RESULT ") :])
    return {
        "ok": False,
        "error": f"stopped (limit of {CPU_SECONDS} CPU-seconds, or crashed: exit {run.returncode})",
    }


def cell(value: Any, digits: str) -> str:
    return format(value, digits) if isinstance(value, float) else "-"


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    head = "| model | ok | trace CPU s | groups | MACs at 0.5 | view vs extract | gradient | MACs error | Torch-Pruning | its s |\n|---|---|---:|---:|---:|---:|---:|---:|---|---:|"
    rows = []
    for name, both in results.items():
        a, t = both["anywidth"], both.get("torch-pruning", {})
        rows.append(
            f"| {name} | {'yes' if a['ok'] else 'NO: ' + a.get('error', 'numbers')} | {cell(a.get('trace_s'), '.2f')} | {a.get('groups', '-')} "
            f"| {cell(a.get('mac_ratio'), '.0%')} | {cell(a.get('view_vs_extract'), '.0e')} | {cell(a.get('gradient_error'), '.0e')} "
            f"| {cell(a.get('mac_error'), '.0e')} | {('yes' if t.get('ok') else 'no') if t else '-'} | {cell(t.get('trace_s'), '.1f')} |"
        )
    return "\n".join([head, *rows])


def summary(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = []
    for kind in ("tv", "timm", "det"):
        mine = {n: r for n, r in results.items() if n.startswith(f"{kind}:")}
        if mine:
            ours, theirs = (
                sum(r["anywidth"]["ok"] for r in mine.values()),
                sum(r.get("torch-pruning", {}).get("ok", False) for r in mine.values()),
            )
            lines.append(f"{kind}: anywidth {ours}/{len(mine)}, Torch-Pruning {theirs}/{len(mine)}")
    lines.append(
        "slowest trace: {:.1f} CPU-seconds".format(
            max((r["anywidth"].get("trace_s", 0.0) for r in results.values()), default=0.0)
        )
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="tv:NAME, timm:NAME or det:NAME (default: all)")
    parser.add_argument("--out", type=Path, help="write coverage.md and coverage.json into this folder")
    parser.add_argument("--only", choices=["anywidth", "torch-pruning"], help="run one tool")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--worker", choices=["anywidth", "torch-pruning"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.models[0])
        return
    results: dict[str, dict[str, dict[str, Any]]] = {}
    tools = [args.only] if args.only else ["anywidth", "torch-pruning"]
    chosen = args.models or names()
    with ThreadPoolExecutor(args.jobs) as pool:
        for name, found in zip(
            chosen, pool.map(lambda n: {tool: launch(tool, n) for tool in tools}, chosen), strict=True
        ):
            results[name] = {"anywidth": {"ok": False}, **found}
            print(table({name: results[name]}).splitlines()[-1], flush=True)
    print(summary(results))
    if args.out:
        import timm
        import torch
        import torchvision

        args.out.mkdir(parents=True, exist_ok=True)
        versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}, {platform.machine()}, {torch.get_num_threads()} threads"
        (args.out / "coverage.json").write_text(
            json.dumps({"versions": versions, "results": results}, indent=1) + "\n"
        )
        (args.out / "coverage.md").write_text(page(results, versions))


def page(results: dict[str, dict[str, dict[str, Any]]], versions: str) -> str:
    frozen = []
    for name, both in results.items():
        a = both["anywidth"]
        for reason in a.get("unknown", []) + a.get("frozen", []):
            frozen.append(f"| {name} | {reason} |")
    return (
        f"# Coverage\n\nMade by `python benchmarks/coverage.py --jobs 2 --out docs/coverage` ({versions}).\n\n```\n{summary(results)}\n```\n\n"
        f"{table(results)}\n\n## What stays frozen, and why\n\n| model | reason |\n|---|---|\n"
        + "\n".join(frozen)
        + "\n"
    )


if __name__ == "__main__":
    main()
