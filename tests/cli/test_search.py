import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from anywidth.models import SmallResNet
from anywidth.search import read_front
from anywidth.store import load
from effort import KILLS

OPTIONS = ("--budget", "macs=60%,35%", "--images", "200", "--steps", "4")


@pytest.fixture(scope="module")
def searched(recipe, run_command, tmp_path_factory):
    """A run with held-out images, and a front of it."""
    run = tmp_path_factory.mktemp("search") / "run"
    code, _, err = run_command("train", recipe, "data.held_out=300", "widths.per_group=true", "--run", run)
    assert code == 0, err
    code, out, err = run_command("search", run, *OPTIONS)
    assert code == 0, err
    assert "macs=35%" in out
    return run


def test_a_front_meets_its_budgets(searched):
    front = read_front(searched / "front.json")
    assert [m.label for m in front.members] == ["macs=35%", "macs=60%"]
    net = load(searched / "net.safetensors", SmallResNet(channels=(8, 16)))
    for member, share in zip(front.members, (0.35, 0.6), strict=True):
        assert member.macs == net.macs(member.width) <= share * net.macs(1.0)
        assert 0 < member.error < 0.6


def test_the_same_command_answers_from_its_log(searched, run_command):
    before = (searched / "search.jsonl").read_text(), (searched / "front.json").read_text()
    start = time.monotonic()
    assert run_command("search", searched, *OPTIONS).code == 0
    assert time.monotonic() - start < 20
    assert ((searched / "search.jsonl").read_text(), (searched / "front.json").read_text()) == before


def test_found_widths_are_evaluated_exported_and_trained_jointly(searched, recipe, run_command, tmp_path):
    front = searched / "front.json"
    code, _, err = run_command(
        "eval", searched, "--front", front, "--latency", "--json", tmp_path / "eval.json"
    )
    assert code == 0, err
    rows = json.loads((tmp_path / "eval.json").read_text())["rows"]
    assert [row["width"] for row in rows] == ["front:macs=35%", "front:macs=60%"]
    assert all(row["latency"] > 0 and row["top5"] >= row["accuracy"] for row in rows)
    assert run_command("export", searched, "--front", front, "--out", tmp_path / "ex").code == 0
    shapes = [
        load_file(tmp_path / "ex" / f"export-macs={share}%" / "model.safetensors")["fc.weight"].shape[1]
        for share in (35, 60)
    ]
    widths = [m.width for m in read_front(front).members]
    assert shapes == [w["stages.1.0.conv2"] for w in widths]
    run = tmp_path / "joint"
    changes = (
        f"widths.listed={front}",
        "widths.policy=listed",
        "elastic.norm=switchable",
        "train.target=labels",
    )
    code, _, err = run_command("train", recipe, *changes, "--run", run)
    assert code == 0, err
    results = json.loads((run / "results.json").read_text())["rows"]
    assert [row["width"] for row in results] == ["macs=35%", "macs=60%"]
    assert [list(row["channels"].values()) for row in results] == [list(w.kept) for w in widths]


def test_evolution_and_parameters(searched, run_command, tmp_path):
    front = tmp_path / "front.json"
    (searched / "search.jsonl").rename(tmp_path / "greedy.jsonl")
    arguments = ("--budget", "params=50%", "--searcher", "evolve", "--population", 6, "--generations", 1)
    code, _, err = run_command("search", searched, *arguments, "--images", 100, "--front", front)
    (tmp_path / "greedy.jsonl").replace(searched / "search.jsonl")
    assert code == 0, err
    (member,) = read_front(front).members
    assert member.params <= 0.5 * load(searched / "net.safetensors", SmallResNet(channels=(8, 16))).params(
        1.0
    )


def test_a_latency_search_goes_on_with_the_latencies_it_measured(searched, run_command, refused, tmp_path):
    front, log = tmp_path / "front.json", tmp_path / "front.search.jsonl"
    options = ("--images", 100, "--steps", 2, "--front", front)
    assert "10 seconds is outside what this network can have" in refused(
        "search", searched, "--budget", "latency=10s", *options
    )
    latencies = searched / "latencies.jsonl"
    header, smallest, full = map(json.loads, latencies.read_text().splitlines())
    smallest["cost"], full["cost"] = 1.0, 3.0  # a clock that is surely in between
    latencies.write_text("".join(json.dumps(line) + "\n" for line in (header, smallest, full)))
    arguments = ("search", searched, "--budget", "latency=2s", *options)
    code, _, err = run_command(*arguments)
    assert code == 0, err
    (member,) = read_front(front).members
    assert member.cost <= 2
    results = [file.read_text() for file in (front, log, latencies)]
    log.write_text("".join(results[1].splitlines(keepends=True)[:2]) + '{"round": 1, "wid')
    assert run_command(*arguments).code == 0
    assert [file.read_text() for file in (front, log, latencies)] == results


def test_processes_of_torchrun_search_as_one(searched, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "anywidth",
    ]
    front = tmp_path / "front.json"
    done = subprocess.run(
        [*command, "search", str(searched), *OPTIONS, "--front", str(front)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert front.read_text() == (searched / "front.json").read_text()
    assert (tmp_path / "front.search.jsonl").read_text() == (searched / "search.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "macs=0.1%"), "is outside what this network can have"),
        (("--budget", "flops=3"), "expected macs=LIMITS"),
        (("--budget", "macs=50%", "--searcher", "luck"), "unknown method of search 'luck' (known: greedy"),
        (("--budget", "macs=50%"), "is the log of another search (limits, steps, images, batch_size differ)"),
    ],
)
def test_a_mistake_is_one_line(searched, refused, arguments, message):
    assert message in refused("search", searched, *arguments)


def test_test_images_choose_no_widths(trained, refused):
    assert "the run held no images out" in refused("search", trained, "--budget", "macs=50%")


def test_switchable_norms_have_nothing_to_search(recipe, run_command, refused, tmp_path):
    changes = ("elastic.norm=switchable", "widths.policy=listed", "data.held_out=100", "train.epochs=1")
    assert run_command("train", recipe, *changes, "--run", tmp_path / "run").code == 0
    assert "has batch norms for its listed widths only" in refused(
        "search", tmp_path / "run", "--budget", "macs=50%"
    )


def test_what_export_and_eval_need(trained, searched, refused):
    assert "say which width: --width 0.5, or --front FILE" in refused("export", trained)
    assert "say which widths: --widths" in refused("eval", trained)
    assert "no width is called 'x'; there are macs=35%, macs=60%" in refused(
        "export", searched, "--front", searched / "front.json", "--width", "x"
    )
    assert "no such file" in refused("eval", trained, "--front", "none.json")


@pytest.mark.slow
def test_kill_during_a_search(searched, run_command, forks):
    """Every time at another moment; the front is that of a search that was left alone."""
    whole = (searched / "search.jsonl").read_text()
    expected = (searched / "front.json").read_text()
    (searched / "search.jsonl").unlink()
    (searched / "front.json").unlink()
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(KILLS):
        process = forks.start("search", searched, *OPTIONS)
        deadline = time.monotonic() + 60
        log = searched / "search.jsonl"
        before = log.stat().st_size if log.exists() else 0
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and not (log.exists() and log.stat().st_size > before)
        ):
            time.sleep(0.005)
        time.sleep(0.1 * torch.rand((), generator=generator).item())
        process.kill()
        sizes.append(log.stat().st_size if log.exists() else 0)
    assert sizes == sorted(sizes)
    assert run_command("search", searched, *OPTIONS).code == 0
    assert (searched / "search.jsonl").read_text() == whole
    assert (searched / "front.json").read_text() == expected


def test_a_front_may_be_faster_than_every_uniform_width():
    """Latencies are measured: the narrowest uniform width may come out slower than a width that was found."""
    import torch
    from torch import nn

    from anywidth import Elastic
    from anywidth.workflows.searching import uniform_rival

    net = Elastic(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.randn(1, 3))
    assert uniform_rival(net, lambda widths: [1.0] * len(widths), 0.5) == net.space.smallest
    assert uniform_rival(net, lambda widths: [w.kept[0] / 8 for w in widths], 0.5)["0"] == 4
