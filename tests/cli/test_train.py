import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anywidth import recipe as recipes
from anywidth.data import DataConfig
from anywidth.data import load as load_data
from anywidth.models import SmallResNet
from anywidth.store import load
from anywidth.train import log
from effort import KILLS


def bits(path: Path) -> dict[str, bytes]:
    """Every weight and every statistic of a run's network."""
    tensors = load_file(path / "net.safetensors") | load_file(path / "net.norms.safetensors")
    return {key: value.numpy().tobytes() for key, value in tensors.items()}


def test_what_a_run_leaves(trained, recipe):
    network = {"net.safetensors", "net.norms.safetensors", "net.json"}
    names = {"recipe.yaml", "log.jsonl", "checkpoint.pt", "results.json"}
    assert {path.name for path in trained.iterdir()} == names | network
    assert recipes.load(trained / "recipe.yaml") == recipes.load(recipe)
    events = [record["event"] for record in log.read(trained / "log.jsonl")]
    assert events == ["start", "step", "epoch", "step", "epoch", "step", "epoch"]


def test_results_equal_a_count_over_the_extracted_networks(trained):
    results = json.loads((trained / "results.json").read_text())
    assert [row["width"] for row in results["rows"]] == [0.25, 0.5, 1.0]
    net = load(trained / "net.safetensors", SmallResNet(channels=(8, 16)))
    test = load_data(DataConfig(name="digits", seed=1)).test.source
    images, labels = test.images, test.labels
    for row in results["rows"]:
        small = net.extract(row["width"]).eval()
        with torch.no_grad():
            correct = (small(images).argmax(1) == labels).sum().item()
        assert row["accuracy"] == correct / 359
        assert row["accuracy"] > 0.7
        assert row["params"] == sum(p.numel() for p in small.parameters())
        assert row["listed"]


def test_the_last_width_is_the_wide_network_under_its_own_key_names(trained):
    plain = SmallResNet(channels=(8, 16))
    saved = load_file(trained / "net.safetensors")
    for name, value in plain.named_parameters():
        assert saved[name].shape == value.shape


def test_the_same_command_on_a_finished_run_prints_its_results(trained, recipe, run_command):
    before = bits(trained)
    code, out, err = run_command("train", recipe, "--run", trained)
    assert code == 0
    assert "already trained" in err
    assert "0.25" in out
    assert bits(trained) == before


@pytest.mark.parametrize("norm", ["switchable", "frozen"])
def test_overrides_and_the_other_rule(recipe, run_command, tmp_path, norm):
    run = tmp_path / "run"
    changes = ["train.epochs=1", "widths.policy=listed", "widths.listed=[0.5, 1.0]", f"elastic.norm={norm}"]
    code, _, err = run_command("train", recipe, *changes, "--run", run)
    assert code == 0, err
    assert recipes.load(run / "recipe.yaml").train.epochs == 1
    assert [row["width"] for row in json.loads((run / "results.json").read_text())["rows"]] == [0.5, 1.0]


def test_switchable_norms_keep_the_statistics_they_were_trained_with(
    recipe, run_command, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "anywidth.workflows.classifier_run.ClassifierRun.calibrate_",
        lambda *a, **k: pytest.fail("calibrated"),
    )
    changes = ["train.epochs=1", "widths.policy=listed", "elastic.norm=switchable", "train.eval_every=1"]
    assert run_command("train", recipe, *changes, "--run", tmp_path / "run").code == 0


@pytest.mark.slow
def test_kill_at_any_moment_and_the_same_command_gives_the_same_weights(recipe, run_command, forks, tmp_path):
    """A checkpoint is written after every second step, so some of the kills meet it half written."""
    changes = (
        f"train.epochs={max(KILLS, 4)}",  # each kill lets a few steps more of 44 an epoch pass
        "train.save_every=2",
        "train.eval_every=2",
        "train.ema=0.9",
        "train.log_every=5",
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_command("train", recipe, *changes, "--run", whole).code == 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(KILLS):
        before = (cut / "checkpoint.pt").stat().st_mtime_ns if (cut / "checkpoint.pt").exists() else 0
        process = forks.start("train", recipe, *changes, "--run", cut)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if (cut / "checkpoint.pt").exists() and (cut / "checkpoint.pt").stat().st_mtime_ns > before:
                break
            time.sleep(0.002)
        time.sleep(0.3 * torch.rand((), generator=generator).item())
        process.kill()
        assert (cut / "checkpoint.pt").exists()
    assert not (cut / "results.json").exists()
    assert run_command("train", recipe, *changes, "--run", cut).code == 0
    assert "resume" in {record["event"] for record in log.read(cut / "log.jsonl")}
    assert bits(cut) == bits(whole)
    steps = [r["step"] for r in log.read(cut / "log.jsonl") if r["event"] == "step"]
    assert steps == [r["step"] for r in log.read(whole / "log.jsonl") if r["event"] == "step"]


def test_another_recipe_in_the_same_directory(trained, recipe, refused):
    message = refused("train", recipe, "train.lr=0.2", "--run", trained)
    assert (
        "holds a run of another recipe: train.lr was 0.1 and is 0.2; name another directory with --run"
        in message
    )


def test_a_directory_where_nothing_was_trained_yet(recipe, run_command, refused, tmp_path):
    run = tmp_path / "run"
    assert "nothing was saved" in refused("train", recipe, "train.lr=1e30", "--run", run)
    assert run_command("train", recipe, "train.epochs=1", "--run", run).code == 0
    assert recipes.load(run / "recipe.yaml").train.lr == 0.1


def test_a_directory_of_something_else(recipe, refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no run" in refused("train", recipe, "--run", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unwritable_directory(recipe, refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refused("train", recipe, "--run", tmp_path / "file" / "run")


def test_a_missing_recipe(refused, tmp_path):
    assert "No such file or directory" in refused("train", tmp_path / "none.yaml", "--run", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=1", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("train.lr=quick", "train.lr = 'quick': expected a valid number"),
        (
            "model.name=SmallResnet",
            "'SmallResnet' is not in anywidth.models, torchvision and timm; did you mean",
        ),
        ("model.kwargs={depth: 3}", "model 'SmallResNet' cannot be built with (depth=3): "),
        ("data.batch_size=5000", "1438 training images do not fill one batch of 5000"),
    ],
)
def test_a_mistake_is_one_line(recipe, refused, tmp_path, override, message):
    assert message in refused("train", recipe, override, "--run", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint(recipe, refused, tmp_path, trained):
    for name in ("recipe.yaml", "checkpoint.pt"):
        (tmp_path / name).write_bytes((trained / name).read_bytes()[:2000])
    assert "cannot be read as a training checkpoint" in refused("train", recipe, "--run", tmp_path)
