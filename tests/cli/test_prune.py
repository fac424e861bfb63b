"""`anywidth prune`, fine-tuning, and the passes of a recipe."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from anywidth import recipe as recipes

CHANGES = (
    "widths.listed=[1.0]", "widths.policy=listed", "train.target=labels", "data.held_out=200",
    "train.sparsity={l1: 0.003, init: 0.5}", "model.kwargs={channels: [16, 24]}", "train.milestones=[2]",
    "train.schedule=multistep",
)  # fmt: skip


@pytest.fixture(scope="module")
def sparse(tmp_path_factory, run_command):
    folder = tmp_path_factory.mktemp("sparse")
    (folder / "recipe.yaml").write_text(RECIPE)
    code, _, err = run_command("train", folder / "recipe.yaml", *CHANGES, "--run", folder / "run")
    assert code == 0, err
    return folder


@pytest.fixture
def run(sparse, tmp_path):
    return shutil.copytree(sparse / "run", tmp_path / "run")


def about(folder):
    return json.loads((folder / "pruned.json").read_text())


def test_the_log_and_the_results_say_how_sparse_the_scales_are(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scales = [r for r in records if r["event"] == "scales"]
    assert [r["epoch"] for r in scales] == [1, 2, 3]
    assert all(0 < r["mean"] < r["max"] < 2 and 0 <= r["near_zero"] <= 1 for r in scales)
    assert len({r["mean"] for r in scales}) == 3
    found = json.loads((run / "results.json").read_text())["scales"]
    assert sum(found["histogram"]["counts"]) == 16 + 2 * 16 + 3 * 24  # the stem, two blocks, a projection


def test_prune_fine_tune_evaluate_export_and_prune_again(run, sparse, run_command, tmp_path):
    code, out, err = run_command("prune", run, "--ratio", 0.4, "--rule", "network-slimming", "--calibrate")
    assert code == 0, err
    first = about(run / "pruned")
    assert first["pruned"] == int(0.4 * first["judged"]) + 1
    rows = {row["network"]: row for row in first["rows"]}
    assert list(rows) == ["trained", "zeroed", "pruned", "folded", "calibrated"]
    assert rows["zeroed"]["accuracy"] == rows["pruned"]["accuracy"]
    assert rows["zeroed"]["loss"] == pytest.approx(rows["pruned"]["loss"], rel=1e-4)
    assert rows["zeroed"]["params"] == rows["trained"]["params"] > rows["pruned"]["params"]
    assert rows["trained"]["images"] == 200
    assert f"{100 * rows['folded']['accuracy']:.2f} %" in out
    assert (
        sum(
            t.numel()
            for k, t in load_file(run / "pruned" / "net.safetensors").items()
            if "running" not in k and "tracked" not in k
        )
        == first["params"]
    )

    assert run_command("export", run / "pruned").code == 0
    program = torch.export.load(run / "pruned" / "export" / "model.pt2").module()
    assert program(torch.rand(3, 1, 8, 8)).shape == (3, 10)

    tuned = tmp_path / "tuned"
    more = (*CHANGES, f"model.pruned={run / 'pruned'}", "train.sparsity={}", "train.lr=0.02")
    code, _, err = run_command("train", sparse / "recipe.yaml", *more, "--run", tuned)
    assert code == 0, err
    (row,) = json.loads((tuned / "results.json").read_text())["rows"]
    assert (row["macs"], row["params"]) == (first["macs"], first["params"])
    assert row["accuracy"] > 0.9
    shutil.rmtree(run)  # the fine-tuned run stands on its own
    assert run_command("eval", tuned, "--widths", "1.0").code == 0
    assert run_command("report", tuned).code == 0
    assert run_command("export", tuned, "--width", "1.0").code == 0
    program = torch.export.load(tuned / "export-1.0" / "model.pt2").module()
    assert program(torch.rand(3, 1, 8, 8)).shape == (3, 10)

    assert run_command("prune", tuned, "--budget", "macs=60%", "--criterion", "l1").code == 0
    second = about(tuned / "pruned")
    assert len(second["steps"]) == 2
    assert second["macs"] <= 0.6 * first["macs"]
    assert second["macs_of_the_first"] == first["macs_of_the_first"] > first["macs"]


def test_training_the_pruned_architecture_from_scratch(run, sparse, run_command, tmp_path):
    assert run_command("prune", run, "--budget", "macs=45%").code == 0
    for scratch, epochs in (("epochs", 1), ("compute", 2)):
        path = tmp_path / scratch
        more = (
            *CHANGES,
            f"model.pruned={run / 'pruned'}",
            f"model.scratch={scratch}",
            "train.epochs=1",
            "train.milestones=[0.5]",
            "train.sparsity={}",
        )
        code, _, err = run_command("train", sparse / "recipe.yaml", *more, "--run", path)
        assert code == 0, err
        epoch_records = [
            r for r in map(json.loads, (path / "log.jsonl").read_text().splitlines()) if r["event"] == "epoch"
        ]
        assert len(epoch_records) == epochs


def test_passes_of_a_recipe_and_going_on_after_an_interruption(sparse, run_command, tmp_path):
    changes = (*CHANGES, "prune={ratio: 0.3, passes: 2, epochs: 2, lr: 0.02}")
    run = tmp_path / "run"
    code, out, err = run_command("train", sparse / "recipe.yaml", *changes, "--run", run)
    assert code == 0, err
    assert "after each pruning" in out
    sizes = [
        json.loads((p / "results.json").read_text())["rows"][0]["params"]
        for p in (run, run / "pass-1", run / "pass-2")
    ]
    assert sizes[0] > sizes[1] > sizes[2]
    assert recipes.load(run / "pass-1" / "recipe.yaml").train.sparsity.l1 == 0.003
    assert recipes.load(run / "pass-1" / "recipe.yaml").train.sparsity.init == 0
    assert recipes.load(run / "pass-2" / "recipe.yaml").train.sparsity.l1 == 0
    assert recipes.load(run / "pass-2" / "recipe.yaml").train.milestones == pytest.approx((4 / 3,))
    last = load_file(run / "pass-2" / "net.safetensors")
    shutil.rmtree(run / "pass-2")
    (run / "pass-1" / "pruned" / "pruned.json").unlink()
    assert run_command("train", sparse / "recipe.yaml", *changes, "--run", run).code == 0
    again = load_file(run / "pass-2" / "net.safetensors")
    assert all(torch.equal(t, again[k]) for k, t in last.items())


@pytest.mark.parametrize("criterion", ["taylor", "activation", "lamp", "fpgm", "random", "uniform"])
def test_criteria(run, run_command, criterion):
    code, _, err = run_command(
        "prune", run, "--ratio", 0.3, "--criterion", criterion, "--batches", 2, "--no-fold"
    )
    assert code == 0, err
    assert about(run / "pruned")["settings"]["criterion"] == criterion


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", "1.5"], "prune: ratio = 1.5"),
        ([], "says not how much"),
        (["--ratio", "0.5", "--criterion", "bn"], "prune: criterion = 'bn'"),
        (["--budget", "macs=0.001%"], "cannot be met"),
        (["--budget", "watts=3"], "expected macs=LIMITS"),
        (["--ratio", "0.5", "--scope", "all"], "prune: scope = 'all'"),
    ],
)
def test_what_is_refused(run, refused, options, message):
    assert message in refused("prune", run, *options)
    assert not (run / "pruned").exists()


def test_damaged_and_foreign_folders_are_refused(run, sparse, run_command, refused, tmp_path):
    assert run_command("prune", run, "--ratio", 0.3).code == 0
    train = ("train", sparse / "recipe.yaml", *CHANGES, "--run", tmp_path / "new")
    cut = run / "pruned"
    assert "model.name" in refused(*train, f"model.pruned={cut}", "model.kwargs={channels: [8, 16]}")
    assert "pruned.json: No such file" in refused(*train, f"model.pruned={tmp_path}")
    assert "set one of them" in refused(*train, f"model.pruned={cut}", "model.weights=x.pt")
    assert "set model.pruned" in refused(*train, "model.scratch=epochs")
    text = (cut / "pruned.json").read_text()
    (cut / "pruned.json").write_text(text[:100])
    assert "is not JSON" in refused(*train, f"model.pruned={cut}")
    broken = json.loads(text)
    for change in (
        {"macs": None},
        {"steps": [{}]},
        {"steps": [{**broken["steps"][0], "width": [1]}]},
        {"input": "x"},
    ):
        (cut / "pruned.json").write_text(json.dumps({**broken, **change}))
        refused(*train, f"model.pruned={cut}")
    (cut / "pruned.json").write_text(text)
    (cut / "net.safetensors").write_bytes(b"x" * 50)
    assert "cannot be read" in refused(*train, f"model.pruned={cut}")
    assert not (tmp_path / "new" / "results.json").exists()


RECIPE = """\
model: {name: SmallResNet, kwargs: {channels: [8, 16]}}
data: {name: digits, seed: 1, batch_size: 32}
widths: {listed: [1.0], policy: listed}
train: {epochs: 3, lr: 0.1, log_every: 40}
threads: 1
device: cpu
"""


def test_nothing_is_lost_by_a_name(run, run_command, refused):
    assert "is a run; its network would be lost" in refused("prune", run, "--ratio", 0.3, "--out", run)
    (run / "pass-1").mkdir()
    assert "pass-1 was trained from" in refused("prune", run, "--ratio", 0.3)
    assert run_command("prune", run, "--ratio", 0.3, "--out", run / "other").code == 0


def test_fine_tuning_keeps_the_scales_that_were_trained(run, sparse, run_command, refused, tmp_path):
    assert run_command("prune", run, "--ratio", 0.3).code == 0
    tuned = tmp_path / "tuned"
    more = (
        *CHANGES,
        f"model.pruned={run / 'pruned'}",
        "train.lr=1e-12",
        "train.epochs=1",
        "train.milestones=[0.5]",
    )
    assert run_command("train", sparse / "recipe.yaml", *more, "--run", tuned).code == 0
    assert run_command("prune", run, "--ratio", 0.2, "--out", run / "other").code == 0
    other = (*more[: len(CHANGES)], f"model.pruned={run / 'other'}", *more[len(CHANGES) + 1 :])
    assert "of another pruning than" in refused("train", sparse / "recipe.yaml", *other, "--run", tuned)
    before, after = (load_file(p / "net.safetensors") for p in (run / "pruned", tuned))
    torch.testing.assert_close(after["stages.0.0.bn1.weight"], before["stages.0.0.bn1.weight"])


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        ("{ratio: 0.3, passes: 1, criterion: foo}", "prune.criterion = 'foo'"),
        ("{budget: watts=3, passes: 1}", "expected macs=LIMITS"),
        ("{budget: params=8k, passes: 2}", "the same in each of 2 passes"),
        ("{passes: 1}", "says not how much"),
    ],
)
def test_mistakes_are_found_before_the_training(sparse, refused, tmp_path, prune, message):
    found = refused("train", sparse / "recipe.yaml", *CHANGES, f"prune={prune}", "--run", tmp_path / "run")
    assert message in found
    assert not (tmp_path / "run").exists()


def test_a_run_with_passes_moves_and_goes_on_with_other_settings(sparse, run_command, tmp_path):
    changes = [*CHANGES, "train.epochs=1", "train.milestones=[0.5]"]
    first, moved = tmp_path / "first", tmp_path / "moved"
    train = ("train", sparse / "recipe.yaml", *changes)
    assert run_command(*train, "prune={ratio: 0.2, passes: 1, sparse: false}", "--run", first).code == 0
    first.rename(moved)
    code, _, err = run_command(*train, "prune={ratio: 0.2, passes: 2, sparse: false}", "--run", moved)
    assert code == 0, err
    assert (moved / "pass-2" / "results.json").exists()
    code, _, err = run_command(*train, "prune={ratio: 0.3, passes: 2, sparse: false}", "--run", moved)
    assert code == 2
    assert "was trained from a pruning with ratio = 0.2, now 0.3; name another directory" in err
