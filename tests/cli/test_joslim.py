import json
import time

import numpy as np
import pytest

from anywidth.interop.joslim import read_pareto
from anywidth.models import SmallResNet
from anywidth.search import read_front
from anywidth.store import load
from anywidth.train.log import read

CHANGES = (
    "widths.policy=joslim", "widths.min=0.25", "data.held_out=200",
    "joslim={tau: 10, prior_points: 6, history: 12, images: 128, batch_size: 64}",
)  # fmt: skip


@pytest.fixture(scope="module")
def joint(recipe, run_command, tmp_path_factory):
    """A run whose widths were searched while it trained."""
    run = tmp_path_factory.mktemp("joslim") / "run"
    code, _, err = run_command("train", recipe, *CHANGES, "--run", run)
    assert code == 0, err
    return run


def proposals(run):
    return [record["proposed"] for record in read(run / "log.jsonl") if record["event"] == "policy"]


def test_a_run_leaves_the_front_of_its_history(joint):
    front = read_front(joint / "front.json")
    net = load(joint / "net.safetensors", SmallResNet(channels=(8, 16)))
    asked = {tuple(kept) for batch in proposals(joint) for kept in batch}
    assert {m.width.kept for m in front.members} <= asked
    assert [m.macs for m in front.members] == [net.macs(m.width) for m in front.members]
    assert front.about["acquisition"] == "optimistic"
    assert len(asked) == 2 * len(proposals(joint))


def test_its_front_is_tested_beside_uniform_widths(joint, run_command):
    code, out, err = run_command("eval", joint, "--pareto")
    assert code == 0, err
    found = json.loads((joint / "pareto.json").read_text())
    front, uniform = found["curves"]["front"], found["curves"]["uniform"]
    members = read_front(joint / "front.json").members
    assert {m.label for m in members} | {"smallest", "widest"} >= {row["width"] for row in front}
    assert len(uniform) == 8
    assert [row["macs"] for row in front] == sorted(row["macs"] for row in front)
    assert front[-1]["accuracy"] == uniform[-1]["accuracy"]  # both end with the widest
    text = read_pareto(joint / "pareto.txt")
    np.testing.assert_allclose(text.ratios, [row["macs_share"] for row in front])
    np.testing.assert_allclose(text.top1, [100 * row["accuracy"] for row in front])
    shares, errors = ([row[k] for row in uniform] for k in ("macs_share", "error"))
    assert found["quality"]["uniform"]["area"] == pytest.approx(
        np.trapezoid(errors, shares) / (shares[-1] - shares[0])
    )
    assert f"{100 * found['quality']['front']['area']:.2f} %" in out
    assert (joint / "pareto.png").stat().st_size > 10_000


def test_a_killed_training_proposes_the_same_widths(joint, recipe, forks, tmp_path):
    run = tmp_path / "run"
    command = ("train", recipe, *CHANGES, "train.save_every=7", "--run", run)
    for wanted in (1, 3):
        process = forks.start(*command)
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            if (
                (run / "log.jsonl").exists()
                and len(proposals(run)) > wanted
                and (run / "checkpoint.pt").exists()
            ):
                break
            time.sleep(0.005)
        process.kill()
    done = forks.start(*command).wait()
    assert done.code == 0, done.err
    assert proposals(run) == proposals(joint)
    ours, theirs = (json.loads((r / "front.json").read_text()) for r in (run, joint))
    assert ours == theirs


def test_two_processes_propose_the_same_and_train_one_network(recipe, forks, tmp_path):
    """Were proposals different, gradients of other widths would meet, and the ranks would hang or differ."""
    run = tmp_path / "run"
    for done in forks.together("train", recipe, *CHANGES, "train.epochs=2", "--run-dir", run):
        assert done.code == 0, done.err
    assert len(proposals(run)) > 4
    assert json.loads((run / "results.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("bayes", ("--evals", "16", "--prior-points", "6", "--objective", "macs,loss")),
        ("bayes", ("--evals", "16", "--prior-points", "6", "--budget", "macs=60%,30%", "--within", "params=80%")),
        ("bayes", ("--evals", "14", "--prior-points", "6", "--objective", "latency,error")),
        ("random", ("--evals", "16", "--objective", "params,error")),
        ("evolve", ("--evals", "60", "--population", "6")),
        ("greedy", ("--steps", "3",)),
    ],
)  # fmt: skip
def test_every_method_writes_a_front(joint, run_command, tmp_path, method, options):
    front = tmp_path / "front.json"
    arguments = ("search", joint, "--method", method, *options, "--images", "128", "--front", front)
    code, _, err = run_command(*arguments)
    assert code == 0, err
    found = read_front(front)
    assert found.about["searcher"] == method
    assert [m.cost for m in found.members] == sorted(m.cost for m in found.members)
    before = front.read_text(), front.with_suffix(".search.jsonl").read_text()
    assert run_command(*arguments).code == 0  # from its log
    assert (front.read_text(), front.with_suffix(".search.jsonl").read_text()) == before
    code, _, err = run_command("eval", joint, "--pareto", "--front", front)
    assert code == 0, err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("joslim.tau=100000",), "the whole training has"),
        (("joslim.prior_points=1000",), "all of them prior points"),
        (("joslim.lower_channel=0",), "joslim.lower_channel = 0: expected greater than 0"),
        (("joslim.upper_channel=0.2",), "expected lower_channel < upper_channel, got 0.25 and 0.2"),
        (("data.held_out=0",), "set data.held_out to as many or more (now 0)"),
        (("joslim.mode=pool",), "the mode 'pool', and no other, names a file"),
        (("joslim.mode=pool", "joslim.pool=none.json"), "none.json: no such file"),
        (("joslim.tauu=3",), "unknown key 'joslim.tauu'; did you mean 'joslim.tau'?"),
        (("joslim=null",), "takes a section joslim"),
        (("widths.policy=sandwich",), "takes a section joslim"),
        (("train.compile=true",), "joslim trains ever new ones"),
        (("joslim.baseline=.nan",), "joslim.baseline = nan: expected a finite number"),
        (("widths.max=0.5",), "widths.max = 0.5: the policy 'joslim' does not know it"),
        (("widths.options={a: 1}",), "widths.options = {'a': 1}: the policy 'joslim' does not know it"),
        (("widths.listed={1.0: 0.5}",), "the label 1.0 of the listed widths is not the ratio 1.0"),
        (("joslim.acquisition=bold",), "expected 'optimistic', 'reference' or 'ehvi'"),
    ],
)
def test_a_mistake_is_said_before_training(recipe, refused, tmp_path, changes, message):
    assert message in refused("train", recipe, *CHANGES, *changes, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_training_with_advice(recipe, refused, tmp_path):
    changes = (*CHANGES, "joslim.tau=6", "train.lr=1e6")
    message = refused("train", recipe, *changes, "--run", tmp_path / "run")
    assert "epoch 1, before step 7: search: evaluate gave an error of nan" in message
    assert "lower the learning rate" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "luck"), "unknown method of search 'luck'"),
        (("--method", "greedy", "--evals", "10"), "--evals is for bayes, random and evolve"),
        (("--method", "random", "--within", "params=50%"), "--within is for bayes"),
        (("--method", "bayes", "--within", "latency=1ms"), "a limit on latency cannot be known before measuring"),
        (("--method", "bayes", "--objective", "flops,error"), "objective 'flops,error': expected a cost"),
        (("--method", "bayes", "--objective", "params,error", "--budget", "macs=50%"), "limits another cost"),
        (("--method", "evolve", "--evals", "17"), "--evals 17 is less than two widths for each of 9 limits"),
        (("--method", "bayes", "--evals", "10"), "evals = 10: expected more than prior_points"),
        (("--method", "bayes", "--low", "0"), "expected 0 < low < high <= 1"),
        (("--method", "bayes", "--budget", "macs=2%"), "is outside what"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_search_is_one_line(joint, refused, tmp_path, arguments, message):
    assert message in refused("search", joint, *arguments, "--images", "128", "--front", tmp_path / "f.json")


@pytest.mark.parametrize("arguments", [("--pareto",), ()])
def test_the_front_of_another_network_is_refused(joint, refused, tmp_path, arguments):
    text = (joint / "front.json").read_text()
    (tmp_path / "other.json").write_text(text.replace('"conv"', '"stem"'))
    message = refused("eval", joint, *arguments, "--front", tmp_path / "other.json")
    assert "other.json: is the front of another network: this width has 4 groups" in message


def test_a_damaged_history_is_refused(joint, refused, run_command, tmp_path):
    front = tmp_path / "front.json"
    arguments = ("search", joint, "--method", "random", "--evals", "8", "--images", "128", "--front", front)
    assert run_command(*arguments).code == 0
    log = front.with_suffix(".search.jsonl")
    text = log.read_text()
    log.write_text(text.replace('"errors": [', '"errors": ["x", ', 1))
    assert "damaged" in refused(*arguments)


@pytest.mark.parametrize("mode", ["slim", "pool"])
def test_the_other_modes_train(joint, recipe, run_command, refused, tmp_path, mode):
    run = tmp_path / "run"
    changes = [*CHANGES, f"joslim.mode={mode}", "train.epochs=1", "data.held_out=0"]
    changes += [f"joslim.pool={joint / 'front.json'}"] if mode == "pool" else []
    code, _, err = run_command("train", recipe, *changes, "--run", run)
    assert code == 0, err
    drawn = [tuple(kept) for batch in proposals(run) for kept in batch]
    pool = {m.width.kept for m in read_front(joint / "front.json").members}
    assert (set(drawn) <= pool) == (mode == "pool")
    assert not (run / "front.json").exists()
    assert "no such file; `anywidth search RUN` writes a front" in refused("eval", run, "--pareto")
    assert "leave --widths, --latency and --json out" in refused("eval", run, "--pareto", "--widths", "1.0")
