"""Real processes: two that search as one, and one that is killed again and again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import processes

KINDS = ("greedy", "evolve", "bayes")
NET = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from anywidth.elastic import Elastic
from anywidth.search import Bayes, Budget, Evolve, Greedy, Together, closed_form, read_front, run_search, write_front

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
net = Elastic(model, torch.randn(1, 8), divisor=2, minimum=2)
budget = Budget(kind="macs", limits={"75": 0.75 * net.macs(1.0), "40": 0.4 * net.macs(1.0)})

def error(width):
    noise = hashlib.sha256(repr(width.kept).encode()).digest()[0] / 255
    return 0.9 * sum(1 / k for k in width.kept) / 1.5 + 0.1 * noise

def searcher(kind, together=Together()):
    if kind == "bayes":
        return Bayes(net, evals=14, prior_points=6, together=together)
    return Greedy(net, budget, steps=6) if kind == "greedy" else Evolve(net, budget, population=6, generations=3, parents=3)

def plain(front):
    return [[m.label, list(m.width.kept), m.cost, m.error] for m in front.members]
"""

TWO = """
sys.path.insert(0, sys.argv[2])
from anywidth.train import distributed
from processes import fork

def search_and_refuse(folder, kind):
    rank, world = distributed.rank(), distributed.world()
    together = Together(rank=rank, world=world, gathered=distributed.gathered, from_first=distributed.from_first)
    asked = []
    def errors(widths):
        asked.extend(widths)
        return [error(w) for w in widths]
    front = run_search(searcher(kind, together), errors, closed_form(net, "macs"), log=folder / f"{kind}.jsonl", together=together)
    results = {"rank": rank, "world": world, "asked": len(asked), "front": plain(front)}
    other = Greedy(net, budget, steps=3) if kind == "greedy" else Evolve(net, budget, seed=5)
    try:
        run_search(other, errors, closed_form(net, "macs"), log=folder / f"{kind}.jsonl", together=together)
    except ValueError as mistake:
        results["mistake"] = str(mistake)
    (folder / f"{kind}-{rank}.json").write_text(json.dumps(results))

def task(folder=Path(sys.argv[1]) / "two"):
    with distributed.processes(torch.device("cpu")):
        for kind in KINDS:
            search_and_refuse(folder, kind)

import botorch  # once, not in every process
fork(task, world=2)
os.environ["WORLD_SIZE"] = "1"
task(Path(sys.argv[1]) / "one")
"""

KILLED = """
# The imports are paid once: every victim is a fork of this process.
kind, log = sys.argv[2], Path(sys.argv[1]) / "search.jsonl"
luck = random.Random(0)

def errors(widths):
    for _ in widths:
        time.sleep(0.002)
    return [error(w) for w in widths]

def search(path):
    return run_search(searcher(kind), errors, closed_form(net, "macs"), log=path)

start = time.monotonic()
alone = search(None)
seconds = time.monotonic() - start
ends = []
for turn in range(10):
    child = os.fork()
    if not child:
        search(log)
        os._exit(0)
    time.sleep(luck.uniform(0, 0.15 * seconds))
    late = time.monotonic() + 20  # on a busy machine some rounds must be done before the last kills
    while turn > 5 and time.monotonic() < late and not (log.exists() and log.read_text().count("\\n") > 2):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    ends.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
    if luck.random() < 0.5 and log.exists() and log.stat().st_size > 10:  # as if the power had failed, too
        os.truncate(log, log.stat().st_size - luck.randrange(9))
rounds = len(log.read_text().splitlines()) - 1 if log.exists() else 0
found = search(log)
clean = log.with_name("clean.jsonl")
search(clean)
print(json.dumps({"ends": ends, "rounds": rounds, "same": plain(found) == plain(alone), "front": found == alone,
                  "log": log.read_text() == clean.read_text()}))
"""


def run(arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Every kind of search, in two processes and in one."""
    folder = tmp_path_factory.mktemp("searched")
    for name in ("one", "two"):
        (folder / name).mkdir()
    (folder / "script.py").write_text(NET + f"KINDS = {KINDS}\n" + TWO)
    finished(run([folder / "script.py", folder, Path(processes.__file__).parent]))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_gloo_processes_search_as_one(searched, kind):
    def told(name, rank):
        return json.loads((searched / name / f"{kind}-{rank}.json").read_text())

    both, alone = [told("two", rank) for rank in range(2)], told("one", 0)
    assert [(found["rank"], found["world"]) for found in both] == [(0, 2), (1, 2)]
    assert alone["world"] == 1
    assert both[0]["front"] == both[1]["front"] == alone["front"]
    assert both[0]["asked"] + both[1]["asked"] == alone["asked"]
    assert both[1]["asked"] > 0.25 * alone["asked"]
    logs = [(searched / folder / f"{kind}.jsonl").read_text() for folder in ("one", "two")]
    assert logs[0] == logs[1]
    assert "is the log of another search" in alone["mistake"]
    mistakes = [found["mistake"].replace(f"{searched}/two/", f"{searched}/one/") for found in both]
    assert mistakes == [alone["mistake"]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_kill_at_any_moment_ten_times(tmp_path, kind):
    script = tmp_path / "script.py"
    script.write_text(NET + KILLED)
    (found,) = finished(run([script, tmp_path, kind]))
    assert found["ends"].count(9) >= 5
    assert found["rounds"] > 0
    assert found["same"]
    assert found["front"]
    assert found["log"]
