"""Which models can be made elastic, and is the result right? Beside Torch-Pruning and torch-kirigami, in the same run.

    python benchmarks/coverage.py --out docs/coverage            # everything; writes coverage.json and coverage.md there
    python benchmarks/coverage.py --out docs/coverage --resume   # only what is not in coverage.json yet
    python benchmarks/coverage.py tv:resnet50 built:vit --only anywidth  # or --families timm hf --jobs 2
    python benchmarks/coverage.py --out docs/coverage --page     # the page again, from coverage.json

Every model and tool has a process of its own and 60 CPU-seconds for the tool's work. What is checked is in coverage_laws.py, the models
in coverage_models.py, the other tools in coverage_peers.py; "built:" compares with classes that their own constructors made narrow.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import resource
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from coverage_processes import CPU_SECONDS, limit_cpu, run_all

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TOOLS = ("anywidth", "torch-pruning", "torch-kirigami")
CHECK_SECONDS = 5
"""After these CPU-seconds of our own checks no further width is checked."""
Report = Callable[[dict[str, Any]], None]


def stays(net: Any) -> list[list[Any]]:
    """The three reasons that keep most parameters wide: [reason, parameters of the tensors]."""
    shapes = {n: t.numel() for n, t in net.model.named_parameters()}
    tensors: dict[str, set[str]] = {}
    for f in net.space.frozen:
        tensors.setdefault(f.reason, set()).add(f.tensor)
    rows = [[reason, sum(shapes.get(n, 0) for n in names)] for reason, names in tensors.items()]
    return sorted(rows, key=lambda r: -r[1])[:3]


def described(net: Any) -> dict[str, Any]:
    groups = net.space.groups
    return {
        "groups": len(groups),
        "fixed_order": sum(not g.permutable for g in groups),
        "left": net.params(0.5) / max(net.params(1.0), 1),
        "macs_at_half": net.macs(0.5) / max(net.macs(1.0), 1),
        "unknown": list(net.space.unknown),
        "stays": stays(net),
    }


def run_anywidth(name: str, report: Report) -> None:
    import anywidth as aw
    from coverage_models import make
    from coverage_peers import pruned

    model, example = make(name)
    limit_cpu(CPU_SECONDS)
    start = time.process_time()
    net = aw.Elastic(model, example).eval()
    traced = time.process_time() - start
    report({"ok": False, "trace_s": traced, **described(net)})

    def prune(_: Any, __: Any) -> tuple[Any, float]:
        start = time.process_time()
        small = net.extract(aw.prune.plan(net, budget="macs=50%", criterion="l2"))
        return small, traced + time.process_time() - start

    try:
        report({"pruned": pruned(prune, net.model, example)})
    except Exception as error:
        report({"pruned": {"ok": False, "error": text_of(error)}})
    resource.setrlimit(resource.RLIMIT_CPU, (20 * CPU_SECONDS, resource.RLIM_INFINITY))
    check(name, net, example, report)


def check(name: str, net: Any, example: Any, report: Report) -> None:
    """All laws, each in its turn; one that raises is an error of that law, and the others run."""
    import torch

    import coverage_laws as laws
    from coverage_models import ROUTED

    det = name.startswith("det:")  # what is found is different at every width, and hangs on the last bits
    net, example, dtype = laws.double_(net, example, 60.0 if det else 0.3)
    generator = torch.Generator().manual_seed(1)
    draws = [net.space.sample(generator) for _ in range(2)]
    widths = {
        "0.5": net.space.uniform(0.5),
        "random 1": draws[0],
        "0.25": net.space.uniform(0.25),
        "random 2": draws[1],
    }
    checks: dict[str, Callable[[], Any]] = {
        "reorder": lambda: laws.reorder_gap(net, example),
        "masked": lambda: laws.masked_gap(net, draws[0], example),
    }
    if name.startswith("hf:"):
        checks["pretrained"] = lambda: laws.pretrained_gap(net, example)
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    start = time.process_time()
    options = {"gradients": not det}
    for label, width in widths.items():
        options["macs"] = not det and not (
            label.startswith("random") and any(part in name for part in ROUTED)
        )
        if time.process_time() - start > CHECK_SECONDS:
            break
        try:
            rows.append(laws.at_width(net, width, example, **options))
        except Exception as error:
            errors[label] = text_of(error)
    worst = {
        key: (min if key == "finite" else max)(values)
        for key in ("finite", "view", "gradient", "macs", "params")
        if (values := [r[key] for r in rows if r.get(key) is not None])
    }
    report({"dtype": str(dtype)[6:], "widths": len(rows), **worst})
    results: dict[str, Any] = {}
    for law, run in checks.items():
        try:
            value = run()
            results[f"{law}_refused" if isinstance(value, str) else law] = value
        except Exception as error:
            errors[law] = text_of(error)
    exact = all(
        worst.get(key, 0.0) <= laws.TOLERANCE[dtype] for key in ("view", "gradient", "macs", "params")
    )
    lawful = all(results.get(law, 0.0) <= laws.TOLERANCE[dtype] for law in checks)
    report({**results, "errors": errors, "ok": bool(rows) and exact and lawful and not errors})


def run_built(name: str, report: Report) -> None:
    from coverage_built import built, built_gap

    wide, narrow, example = built(name.partition(":")[2])
    value = built_gap(wide, narrow, example)
    report({"ok": not isinstance(value, str) and value <= 1e-4, "equal" if isinstance(value, float) else "error": value})  # fmt: skip


def run_peer(tool: str, name: str, report: Report) -> None:
    from coverage_models import make
    from coverage_peers import TOOLS as PRUNERS
    from coverage_peers import pruned

    model, example = make(name)
    limit_cpu(CPU_SECONDS)
    report(pruned(PRUNERS[tool], model, example))


def text_of(error: BaseException) -> str:
    """The first line of a message, and where it was raised."""
    lines = str(error).strip().splitlines()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300] + f" [{Path(frame.filename).name}:{frame.lineno}]"  # fmt: skip


def work(tool: str, name: str, pipe: Connection) -> None:
    """In the child: what is known so far goes through the pipe, whole, again and again."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    known: dict[str, Any] = {}

    def report(more: dict[str, Any]) -> None:
        known.update(more)
        pipe.send(known)

    try:
        if name.startswith("built:"):
            run_built(name, report)
        elif tool == "anywidth":
            run_anywidth(name, report)
        else:
            run_peer(tool, name, report)
    except Exception as error:
        report({"ok": False, "error": text_of(error)})


def warm_up() -> None:
    """What is imported and made on first use is no tool's time."""
    import torch
    from torch import nn

    import anywidth as aw
    from coverage_peers import TOOLS as PRUNERS

    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()

    example = torch.randn(1, 3, 8, 8)
    net = aw.Elastic(model(), example).eval()
    net.extract(aw.prune.plan(net, budget="macs=50%", criterion="l2"))
    for prune in PRUNERS.values():
        with suppress(ImportError):
            prune(model(), example)
    for library in ("timm", "torchvision", "transformers", "diffusers"):
        with suppress(ImportError):
            importlib.import_module(library)


def wanted(families: list[str] | None) -> list[str]:
    import coverage_built
    import coverage_models

    chosen = [f for f in families or coverage_models.FAMILIES if f != "built"]
    built = [f"built:{n}" for n in coverage_built.NAMES] if not families or "built" in families else []
    return (coverage_models.names(chosen) if chosen else []) + built


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="FAMILY:NAME (default: all)")
    parser.add_argument("--families", nargs="+", help="of coverage_models.FAMILIES, or built")
    parser.add_argument("--out", type=Path, help="folder of coverage.json and coverage.md")
    parser.add_argument("--only", choices=TOOLS, nargs="+", help="run these tools")
    parser.add_argument("--resume", action="store_true", help="leave out what coverage.json has")
    parser.add_argument("--page", action="store_true", help="write the page, run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    from coverage_page import line, page, summary, versions

    file = args.out / "coverage.json" if args.out else None
    known = file and file.exists() and (args.resume or args.page or args.models)
    data: dict[str, Any] = json.loads(file.read_text()) if file and known else {"versions": "", "results": {}}
    results: dict[str, dict[str, Any]] = data["results"]
    if not args.page:
        import torch

        torch.set_num_threads(1)  # children are forked, which threads do not survive
        warm_up()
        tasks = (
            (tool, name)
            for tool in args.only or TOOLS
            for name in args.models or wanted(args.families)
            if not (name.startswith("built:") and tool != "anywidth")
            and not (args.resume and tool in results.get(name, {}))
        )
        data["versions"] = versions()
        for tool, name, result in run_all(work, tasks, args.jobs):
            results.setdefault(name, {})[tool] = result
            print(line(tool, name, result), flush=True)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(data, indent=1) + "\n")
    print(summary(results))
    if args.out:
        (args.out / "coverage.md").write_text(page(data))


if __name__ == "__main__":
    main()
