"""Faster R-CNN at 320 pixels on a CPU thread: what each width costs and takes, with the backbone slim alone and with everything slim.

    python benchmarks/detect_speed.py       # a few minutes

Weights are random, and overlapping regions are not suppressed, so that the box head of every network sees 1000 regions: they cost more than the backbone.
All networks are timed in turns. The table goes to OUT/results.md, numbers to OUT/results/detect_speed.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anywidth.cost.latency import measure_all
from anywidth.detect import elastic_detector
from anywidth.detect.costs import part_macs
from results import publish

WIDTHS = (1.0, 0.75, 0.5, 0.25)


@torch.inference_mode()
def regions(model: nn.Module, x: list[torch.Tensor]) -> int:
    """How many regions the box head sees."""
    seen: list[int] = []
    hook = model.get_submodule("rpn").register_forward_hook(lambda m, a, out: seen.append(len(out[0][0])))
    model(x)
    hook.remove()
    return seen[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=7)
    where = parser.parse_args()
    torch.set_num_threads(1)
    x = [torch.rand(3, where.size, where.size, generator=torch.Generator().manual_seed(0))]
    models: dict[str, nn.Module] = {}
    rows: list[dict[str, Any]] = []
    for preset in ("reference", "full"):
        torch.manual_seed(0)
        net = elastic_detector("fasterrcnn_resnet50_fpn", preset=preset, widths=WIDTHS, size=where.size, min_size=where.size, max_size=where.size, rpn_nms_thresh=1.0)  # fmt: skip
        for width in WIDTHS:
            models[f"{preset} {width}"] = net.extract(width).eval()
            macs = part_macs(net, width)
            rows.append({"preset": preset, "width": width, "macs": macs, "params": int(net.params(width))})
    with torch.inference_mode():
        times = measure_all({k: (lambda m=m: m(x)) for k, m in models.items()}, repeats=where.repeats)
    for row in rows:
        name = f"{row['preset']} {row['width']}"
        row |= {"seconds": times[name].median, "regions": regions(models[name], x)}
    lines = [
        f"Faster R-CNN, ResNet-50-FPN, one image of {where.size} x {where.size}, extracted networks, one CPU thread, torch {torch.__version__}; multiply-adds in G, the box head's for "
        "1000 regions.",
        "",
        "| preset | width | backbone | neck | RPN | box head | total | regions | ms | faster than 1.0 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        macs = [f"{row['macs'][k] / 1e9:.2f}" for k in ("backbone", "neck", "rpn", "box", "total")]
        wide = next(r["seconds"] for r in rows if r["preset"] == row["preset"] and r["width"] == 1.0)
        lines.append(
            f"| {row['preset']} | {row['width']} | {' | '.join(macs)} | {row['regions']} | {1e3 * row['seconds']:.0f} | {wide / row['seconds']:.2f} |"
        )
    publish(where.out, "detect_speed", "\n".join(lines), {"rows": rows})
    print("\n".join(lines))


if __name__ == "__main__":
    main()
