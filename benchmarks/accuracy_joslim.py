"""Joslim on CIFAR-10 against uniform widths, and against training first and searching afterwards.

    python benchmarks/accuracy_joslim.py --data ROOT          # short schedule, an hour and a half on a CPU core
    python benchmarks/accuracy_joslim.py --data ROOT --size 32 --epochs 200 --train-images 45000 --tau 235 --device cuda

Every network is trained for the same steps of four widths: the widest, the narrowest and two others.

uniform: the two others have one random ratio (US-Net). Its curve is that of uniform widths.
then searched: they have a random ratio for every channel group; then a Bayesian search on held-out training images.
joslim: they are proposed by that search while the weights train; its curve is the front of its history.

Each curve's widths are chosen on held-out images, and tested after calibration. The table compares areas under the curves of test
errors against MACs. It goes to OUT/results.md, numbers and a picture to OUT/results/accuracy_joslim.{json,png}.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import anywidth as aw
import cifar
from accuracy_us import CHANNELS, config, mean_spread
from anywidth.models import SmallResNet
from anywidth.search import Bayes, Member, area_under, closed_form, hypervolume, run_search
from anywidth.train import Joslim, evaluate, fit_, sandwich
from results import publish

METHODS = ("uniform", "then searched", "joslim")
LOW = 0.25


def held_out(images: cifar.Images, count: int, device: str) -> list[Any]:
    part = images.part(torch.arange(min(count, len(images))))
    return [(x.to(device), y.to(device)) for x, y in cifar.Plain(part, 128)]


def losses(net: aw.Elastic, batches: list[Any], widths: Any) -> list[float]:
    return [evaluate(net, batches, [w], norm="batch")[0].loss for w in widths]


def policy(method: str, net: aw.Elastic, images: cifar.Images, seed: int, where: argparse.Namespace) -> Any:
    if method != "joslim":
        return sandwich(low=LOW, random=2, per_group=method == "then searched", space=net.space)
    bayes = Bayes(net, low=LOW, prior_points=where.prior, history=where.history, seed=seed)
    batches = held_out(images, where.measure, where.device)
    return Joslim(bayes, lambda widths: losses(net, batches, widths), tau=where.tau, low=LOW)


def trained(
    method: str, seed: int, images: dict[str, cifar.Images], where: argparse.Namespace
) -> tuple[aw.Elastic, Any, float]:
    run = where.runs / f"{method.replace(' ', '-')}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = SmallResNet(in_channels=3, channels=CHANNELS, blocks=3)
    net = aw.Elastic(model, torch.randn(1, 3, where.size, where.size), widths=[1.0]).to(where.device)
    draw = policy(method, net, images["held_out"], seed, where)
    seconds = fit_(
        net,
        lambda epoch, first: cifar.Training(images["train"], where.batch, seed, epoch, first),
        draw,
        config("us", where.epochs, where.lr, where.decay),
        seed=seed,
        run=run,
    )
    print(f"{method}, seed {seed}: {seconds:.0f} s", flush=True)
    return net, draw, seconds


def searched(
    net: aw.Elastic, seed: int, images: dict[str, cifar.Images], where: argparse.Namespace, log: Path
) -> tuple[Member, ...]:
    batches = held_out(images["held_out"], where.search_images, where.device)
    searcher = Bayes(net, low=LOW, evals=where.evals, prior_points=where.prior, history=200, seed=seed)

    def errors(widths: Any) -> list[float]:
        return losses(net, batches, widths)

    return run_search(searcher, errors, closed_form(net, "macs"), log=log).members


def chosen(
    method: str, net: aw.Elastic, draw: Any, seed: int, images: dict[str, cifar.Images], where: Any
) -> list[aw.Width]:
    """The widths of a curve, the narrowest and the widest among them."""
    space = net.space
    if method == "uniform":
        found = [space.uniform(LOW + (1 - LOW) * i / 11) for i in range(12)]
    elif method == "joslim":
        found = [m.width for m in draw.proposer.present_front().members]
    else:
        found = [m.width for m in searched(net, seed, images, where, where.runs / f"search-{seed}.jsonl")]
    return list(dict.fromkeys([space.uniform(LOW), *found, space.full]))


def curve(
    method: str, seed: int, images: dict[str, cifar.Images], where: argparse.Namespace
) -> dict[str, Any]:
    net, draw, seconds = trained(method, seed, images, where)
    start = time.perf_counter()
    widths = chosen(method, net, draw, seed, images, where)
    if method == "joslim":  # the same search on top, as the others may have it
        also = [m.width for m in searched(net, seed, images, where, where.runs / f"more-{seed}.jsonl")]
    else:
        also = []
    more = list(dict.fromkeys([net.space.uniform(LOW), *also, net.space.full])) if also else []
    every = list(dict.fromkeys([*widths, *more]))
    net.calibrate(cifar.Training(images["train"], 128, seed, 0), widths=every, batches=16)
    scores = evaluate(net, cifar.Plain(images["test"]), every)
    error = {w: 1 - s.accuracy for w, s in zip(every, scores, strict=True)}
    full = net.macs(1.0)

    def points(ws: list[aw.Width]) -> dict[str, Any]:
        ordered = sorted(ws, key=net.macs)
        return {"macs": [net.macs(w) / full for w in ordered], "error": [error[w] for w in ordered], "channels": [list(w.kept) for w in ordered]}  # fmt: skip

    found = {
        method: points(widths),
        "seconds": {method: seconds},
        "search_seconds": time.perf_counter() - start,
    }
    return found | ({"joslim, then searched": points(more)} if more else {})


def quality(points: dict[str, Any]) -> tuple[float, float]:
    """Area under the curve of errors, and hypervolume with the reference point (1.01, 1)."""
    return area_under(points["macs"], points["error"]), hypervolume(
        points["macs"], points["error"], reference=(1.01, 1.0)
    )


def table(found: list[dict[str, Any]], where: argparse.Namespace) -> str:
    names = ["uniform", "then searched", "joslim", "joslim, then searched"]
    area = {n: [quality(f[n])[0] for f in found] for n in names}
    volume = {n: [quality(f[n])[1] for f in found] for n in names}
    lines = [
        f"ResNet-20 ({'-'.join(map(str, CHANNELS))} channels) on CIFAR-10 (JPEG copy, {where.size} x {where.size} pixels), {where.epochs} epochs over "
        f"{where.train_images:,} images, batch {where.batch}, four widths a step from ratio {LOW}; joslim: tau {where.tau}, two widths proposed, "
        f"{where.prior} prior points, history {where.history}, measured on {where.measure} held-out images. Search afterwards: {where.evals} evaluations on "
        f"{where.search_images} images. Mean ± standard deviation over {len(found)} seeds; areas in % of test error. torch {torch.__version__}, {where.device}.",
        "",
        "| method | area under the error-MACs curve | minus uniform | hypervolume | training, s |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in names:
        less = [a - b for a, b in zip(area[name], area["uniform"], strict=True)]
        seconds = [f["seconds"].get(name) or f["seconds"]["joslim"] for f in found]
        lines.append(
            f"| {name} | {mean_spread(area[name])} | {'' if name == 'uniform' else mean_spread(less)} | {statistics.mean(volume[name]):.4f} | {statistics.mean(seconds):.0f} |"
        )
    return "\n".join(lines) + "\n"


def draw(found: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=130, layout="constrained")
    for axes, (seed, points) in zip(figure.subplots(1, len(found), sharey=True, squeeze=False)[0], enumerate(found), strict=True):  # fmt: skip
        for name, style in (
            ("uniform", "o-C7"),
            ("then searched", "s--C1"),
            ("joslim", "D-C0"),
            ("joslim, then searched", "^:C2"),
        ):
            axes.plot(
                points[name]["macs"],
                [100 * e for e in points[name]["error"]],
                style,
                ms=3.5,
                lw=1.2,
                label=name,
            )
        axes.set(xlabel="MACs, share of the widest", title=f"seed {seed}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test error, %")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy_joslim"))
    parser.add_argument("--size", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--tau", type=int, default=100)
    parser.add_argument("--prior", type=int, default=10)
    parser.add_argument("--history", type=int, default=40)
    parser.add_argument("--measure", type=int, default=512, help="held-out images for the history")
    parser.add_argument("--evals", type=int, default=120)
    parser.add_argument("--search-images", type=int, default=2048)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    where = parser.parse_args()
    torch.set_num_threads(where.threads)
    images = cifar.splits(where.data, where.size, where.runs)
    images["train"] = images["train"].part(torch.arange(min(where.train_images, len(images["train"]))))
    found = []
    for seed in where.seeds:
        parts = [curve(method, seed, images, where) for method in METHODS]
        seconds = {k: v for part in parts for k, v in part["seconds"].items()}
        found.append({k: v for part in parts for k, v in part.items()} | {"seconds": seconds})
        settings = {k: str(v) for k, v in vars(where).items() if k not in ("data", "runs", "out")}
        publish(where.out, "accuracy_joslim", table(found, where), {"settings": settings, "found": found})
        draw(found, where.out / "results" / "accuracy_joslim.png")
    print(table(found, where))


if __name__ == "__main__":
    main()
