"""The page of the coverage benchmark, from its results."""

from __future__ import annotations

import platform
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import distributions
from typing import Any

Result = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Result]]
PEERS = {"torch-pruning": "Torch-Pruning", "torch-kirigami": "torch-kirigami"}
LAWS = {
    "view": "view = extract",
    "gradient": "gradients",
    "macs": "multiply-adds",
    "params": "parameters",
    "reorder": "reorder",
    "masked": "masked",
    "pretrained": "built from its config",
}


def versions() -> str:
    """Of what is installed."""
    packages = ["torch", "torchvision", "timm", "transformers", "diffusers", "segmentation-models-pytorch", "monai", "torch-geometric", "torch-pruning", "torch-kirigami"]  # fmt: skip
    installed = {d.name.lower().replace("_", "-"): d.version for d in distributions()}
    return (
        ", ".join(f"{p} {installed[p]}" for p in packages if p in installed)
        + f"; {platform.machine()}, one thread"
    )


def number(value: Any, digits: str = ".2f") -> str:
    return format(value, digits) if isinstance(value, int | float) else "-"


def rows(lines: Iterable[Iterable[Any]]) -> str:
    """A table; the first line is its head."""
    cells = ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines]
    return "\n".join([cells[0], re.sub(r"[^|]+", "---", cells[0]), *cells[1:]])


def of_family(results: Results) -> dict[str, Results]:
    families: dict[str, dict[str, Mapping[str, Result]]] = {}
    for name, tools in results.items():
        families.setdefault(name.partition(":")[0], {})[name] = tools
    return families


def ours(results: Results) -> dict[str, Result]:
    return {n: t["anywidth"] for n, t in results.items() if "anywidth" in t}


def share(results: Results, tool: str, holds: Callable[[Result], bool]) -> str:
    """ "3 of 5": of the models that the tool was run on."""
    ran = [t[tool] for t in results.values() if tool in t]
    return f"{sum(map(holds, ran))} of {len(ran)}" if ran else "-"


def _is_ok(result: Result) -> bool:
    return bool(result.get("ok"))


def _family_row(label: str, results: Results) -> list[Any]:
    mine = [r for r in ours(results).values() if "left" in r]
    left = [r["left"] for r in mine]
    config = [r for r in mine if "pretrained" in r or "pretrained_refused" in r]
    equal = sum(r.get("pretrained", 1.0) <= 1e-6 for r in config)
    return [
        label,
        share(results, "anywidth", lambda r: "left" in r),
        share(results, "anywidth", _is_ok),
        share(results, "anywidth", lambda r: _is_ok(r.get("pruned", {}))),
        *(share(results, tool, _is_ok) for tool in PEERS),
        number(statistics.median(left)) if left else "-",
        sum(x > 0.9 for x in left),
        sum(r["fixed_order"] > 0 for r in mine),
        sum("masked_refused" in r for r in mine),
        f"{equal} of {len(config)}" if config else "-",
    ]


def summary(results: Results) -> str:
    models = {n: t for n, t in results.items() if not n.startswith("built:")}
    head = ["family", "traced", "all laws hold", "pruned to half", *PEERS.values(), "median left at half width", "left above 0.9", "some order fixed", "masked refused", "built from its config"]  # fmt: skip
    lines = [head, *(_family_row(f, of) for f, of in of_family(models).items())]
    if models:
        lines.append(_family_row("all", models))
    built = {n: t for n, t in results.items() if n.startswith("built:")}
    text = rows(lines)
    if built:
        text += f"\n\nBuilt narrow by their own constructors: {share(built, 'anywidth', _is_ok)} classes compute what the extracted copy does."
    return text


def seconds(results: Results) -> str:
    """CPU-seconds and milliseconds on the models that both tools prune."""
    lines: list[list[Any]] = [["beside", "models that both prune", "its CPU s (median)", "anywidth's CPU s (median)", "its seconds over anywidth's (median)", "its forward over anywidth's (median)"]]  # fmt: skip
    for tool, label in PEERS.items():
        pairs = [
            (t[tool], t["anywidth"]["pruned"])
            for t in results.values()
            if _is_ok(t.get(tool, {})) and _is_ok(t.get("anywidth", {}).get("pruned", {}))
        ]
        if pairs:
            middle = lambda f: statistics.median(f(a, b) for a, b in pairs)  # noqa: B023, E731
            lines.append([
                label,
                len(pairs),
                *(number(middle(f)) for f in (lambda a, b: a["seconds"], lambda a, b: b["seconds"], lambda a, b: a["seconds"] / max(b["seconds"], 1e-9), lambda a, b: (a["ms"] / a["wide_ms"]) / (b["ms"] / b["wide_ms"]))),
            ])  # fmt: skip
    return rows(lines)


def worst_laws(results: Results) -> str:
    lines: list[list[Any]] = [["law", "models", "worst in float64", "model", "worst in float32", "model"]]
    for law, label in LAWS.items():
        cells: list[Any] = []
        for dtype in ("float64", "float32"):
            gaps = {n: r[law] for n, r in ours(results).items() if r.get("dtype") == dtype and law in r}
            name = max(gaps, key=lambda n: gaps[n], default=None)
            cells += [number(gaps.get(name or ""), ".0e"), name or "-"]
        count = sum(law in r for r in ours(results).values())
        lines.append([label, count, *cells])
    return rows(lines)


def failures(results: Results) -> str:
    lines: list[list[Any]] = [["model", "what"]]
    for name, r in ours(results).items():
        if _is_ok(r):
            continue
        what = [r["error"]] if "error" in r else []
        what += [f"{law}: {text}" for law, text in r.get("errors", {}).items()]
        what += [f"{label}: {number(r[law], '.0e')}" for law, label in LAWS.items() if r.get(law, 0) > 1e-6]
        lines.append([name, "; ".join(dict.fromkeys(what))])
    refused = [[n, f"pruning to half: {r['pruned']['error']}"] for n, r in ours(results).items() if "error" in r.get("pruned", {})]  # fmt: skip
    return rows([*lines, *refused]) if len(lines) + len(refused) > 1 else "None."


def by_model(results: Results) -> str:
    head = ["model", "laws", "in", "trace s", "groups", "left", "MACs", "view", "gradient", "reorder", "masked", "pruned s", "wide ms", "ms"]  # fmt: skip
    head += [f"{short} {c}" for short in ("T-P", "kirigami") for c in ("", "s", "MACs", "ms")]
    lines: list[list[Any]] = [[h.strip() for h in head]]
    for name, tools in results.items():
        r = tools.get("anywidth", {})
        p = r.get("pruned", {})
        masked = "refused" if "masked_refused" in r else number(r.get("masked"), ".0e")
        cells = [name, "yes" if _is_ok(r) else "NO", r.get("dtype", "-"), number(r.get("trace_s")), r.get("groups", "-"), number(r.get("left")), number(r.get("macs_at_half")), number(r.get("view"), ".0e"), number(r.get("gradient"), ".0e"), number(r.get("reorder"), ".0e"), masked, number(p.get("seconds")), number(p.get("wide_ms"), ".1f"), number(p.get("ms"), ".1f")]  # fmt: skip
        for tool in PEERS:
            t = tools.get(tool, {})
            cells += ["yes" if _is_ok(t) else "no" if t else "-", number(t.get("seconds")), number(t.get("macs")), number(t.get("ms"), ".1f")]  # fmt: skip
        lines.append(cells)
    return rows(lines)


def built_table(results: Results) -> str:
    lines = [["class", "equal", "gap, or why not"]]
    for name, tools in results.items():
        r = tools["anywidth"]
        lines.append([name[6:], "yes" if _is_ok(r) else "no", r["error"] if "error" in r else number(r.get("equal"), ".0e")])  # fmt: skip
    return rows(lines)


def refusals(results: Results, key: str) -> str:
    return rows([["model", "message"], *([n, r[key]] for n, r in ours(results).items() if key in r)])


def wide(results: Results) -> str:
    lines: list[list[Any]] = [["model", "left", "reasons, with the parameters of their tensors"]]
    for name, r in ours(results).items():
        if r.get("left", 0) > 0.5:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in r["stays"])
            lines.append([name, number(r["left"]), reasons])
    return rows(lines)


def unknown(results: Results) -> str:
    lines: list[list[Any]] = [["model", "operation"]]
    lines += [[n, op] for n, r in ours(results).items() for op in r.get("unknown", ())]
    return rows(lines) if len(lines) > 1 else "None."


def extent(models: Results) -> str:
    """How far the run went."""
    from coverage_models import names

    ran = {label: sum(tool in t for t in models.values()) for tool, label in PEERS.items()}
    others = " and ".join(f"{label} on {count}" for label, count in ran.items())
    return f"Run on {len(ours(models))} of the benchmark's {len(names())} models; {others} of these."


def line(tool: str, name: str, result: Result) -> str:
    """One result for the terminal."""
    what = result.get("error") or "; ".join(f"{k}: {v}" for k, v in result.get("errors", {}).items())
    took = result.get("seconds", result.get("pruned", {}).get("seconds"))
    return f"{name:45} {tool:15} {'ok' if _is_ok(result) else 'NO':3} {number(took)} s  {what}"


def page(data: Mapping[str, Any]) -> str:
    results: Results = data["results"]
    models = {n: t for n, t in results.items() if not n.startswith("built:")}
    built = {n: t for n, t in results.items() if n.startswith("built:")}
    return f"""# Coverage

Made by `python benchmarks/coverage.py --out docs/coverage` ({data["versions"]}).

Every model has random weights. For anywidth, at uniform 0.25 and 0.5 and at two random widths, in float64 where the model runs in it:
the view computes what the extracted copy does, its gradients are those of autograd through slices, the closed-form multiply-adds are
half of torch's FLOP counter, and the parameters are counted exactly. Permuting all groups that may be permuted leaves the wide
network's outputs, and a network with zeros in the place of the removed channels computes what the extracted one does, or is refused.
"Pruned to half": `prune.plan(net, budget="macs=50%", criterion="l2")` and `extract`, with outputs that are finite and of the same shape. The
other tools: half the multiply-adds for Torch-Pruning (a search over its ratio; the seconds are those of its last call), half the
parameters for torch-kirigami, by the calls of their documentation; 60 CPU-seconds per tool and model.

{extent(models)}

{summary(results)}

## Seconds

{seconds(models)}

## The worst gap of every law

{worst_laws(models)}

## Failures

{failures(models)}

## By model

{by_model(models)}

## Built narrow by their constructors

{built_table(built)}

## What stays wide, and why

Models that keep more than half of their parameters at half width.

{wide(models)}

## Operations without a rule

{unknown(models)}

## Where zeros cannot stand for removed channels

{refusals(models, "masked_refused")}

## Where no config says the narrow sizes

{refusals(models, "pretrained_refused")}
"""
