"""One detector learns 16 real images by heart at four widths: the whole way from annotations to average precision.

    python benchmarks/detect_overfit.py --data coco-tiny         # SSDlite, about half an hour on a CPU core

DATA holds train2017/ and annotations/instances_train2017.json of COCO, whole or a part. The 16 images are those whose smallest object is the largest
part of the image, as SSDlite's anchors are at least a fifth of it. They are trained and evaluated with the recipe detect_ssdlite_tiny; average precision is
checked against pycocotools on the written results. The table goes to OUT/results.md, numbers to OUT/results/detect_overfit.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from results import publish

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "detect_ssdlite_tiny.yaml"
IMAGES = 16


def chosen(whole: dict[str, Any]) -> dict[str, Any]:
    """The annotations of the 16 images with the largest smallest objects."""
    sizes = {image["id"]: image["width"] * image["height"] for image in whole["images"]}
    least: dict[int, float] = {}
    for a in whole["annotations"]:
        share = 0.0 if a["iscrowd"] else a["bbox"][2] * a["bbox"][3] / sizes[a["image_id"]]
        least[a["image_id"]] = min(least.get(a["image_id"], 1.0), share)
    ids = set(sorted(least, key=lambda i: -least[i])[:IMAGES])
    images = [image for image in whole["images"] if image["id"] in ids]
    annotations = [a for a in whole["annotations"] if a["image_id"] in ids]
    return {**whole, "images": images, "annotations": annotations}


def with_pycocotools(truth: Path, results: Path) -> float:
    """AP50 of boxes, by the other package, from the files alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--run", type=Path, default=Path("runs/detect_overfit"))
    parser.add_argument("overrides", nargs="*", help="further keys of the recipe")
    where = parser.parse_args()
    where.run.parent.mkdir(parents=True, exist_ok=True)
    truth = (where.run.parent / "sixteen.json").resolve()
    whole = json.loads((where.data / "annotations" / "instances_train2017.json").read_text())
    truth.write_text(json.dumps(chosen(whole)))
    keys = [f"data.root={where.data}", f"data.train_annotations={truth}", f"data.val_annotations={truth}", "data.val_images=train2017"]  # fmt: skip
    command = [sys.executable, "-m", "anywidth", "train", str(RECIPE), "--run", str(where.run), "threads=1", *keys, *where.overrides]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True)
    found = json.loads((where.run / "results.json").read_text())
    objects = len(json.loads(truth.read_text())["annotations"])
    rows = [
        {
            "width": row["width"],
            **row["metrics"]["bbox"],
            "pycocotools": with_pycocotools(truth, where.run / "detections" / f"{row['width']}-bbox.json"),
            "macs": row["macs"],
        }
        for row in found["rows"]
    ]
    lines = [
        f"SSDlite on MobileNet v3, {IMAGES} training images of COCO with {objects} objects, fresh weights, {found['seconds'] / 60:.0f} minutes on {found['device']}"
        f" ({found['threads']} thread), torch {torch.__version__}; in %, on the images it was trained with.",
        "",
        "| width | AP | AP50 | AP75 | AP50 by pycocotools, from the written JSON | multiply-adds, M |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [f"{100 * row[k]:.1f}" for k in ("AP", "AP50", "AP75", "pycocotools")]
        lines.append(f"| {row['width']} | {' | '.join(cells)} | {row['macs'] / 1e6:.0f} |")
    publish(where.out, "detect_overfit", "\n".join(lines), {"rows": rows, "seconds": time.perf_counter() - start, "keys": where.overrides})  # fmt: skip
    print("\n".join(lines))


if __name__ == "__main__":
    main()
