"""The verbs on folders of images: training, packing, and what a user may have wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from processes import free_port

RECIPE = """\
model: {{name: SmallResNet, kwargs: {{in_channels: 3, num_classes: 3, channels: [4, 8]}}}}
data: {{name: folder, root: {root}, batch_size: 8, image_size: 12, held_out: 4, augment: {{preset: cifar, padding: 1}}}}
widths: {{listed: [0.5, 1.0], min: 0.5, random: 1}}
train: {{epochs: 2, lr: 0.05, eval_every: 1, ema: 0.5, tensorboard: true, save_every: 2}}
calibration: {{batches: 3}}
threads: 1
device: cpu
"""


@pytest.fixture
def recipe(images, tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(root=images))
    return path


def test_a_folder_is_trained_on_and_the_best_epoch_kept(recipe, run_command, tmp_path):
    run = tmp_path / "run"
    code, _, err = run_command("train", recipe, "--run", run)
    assert code == 0, err
    results = json.loads((run / "results.json").read_text())
    assert {row["images"] for row in results["rows"]} == {12}
    assert results["corrupt_images"] == 0
    scores = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if '"scores"' in line]
    assert [sorted(record["scores"]) for record in scores] == [["0.5", "1.0"]] * 2
    for record in scores:
        assert record["value"] == pytest.approx(sum(record["scores"].values()) / 2)
    assert (run / "best.pt").exists()
    assert list((run / "tensorboard").glob("events*"))


def test_a_packed_folder_gives_the_same_network(recipe, images, run_command, tmp_path):
    code, _, err = run_command("pack", images, tmp_path / "packed")
    assert code == 0
    assert "val.lmdb: 12/12 images" in err
    changes = ("data.name=lmdb", f"data.root={tmp_path / 'packed'}", "train.tensorboard=false")
    for name, more in (("a", ()), ("b", changes)):
        assert run_command("train", recipe, "train.epochs=1", *more, "--run", tmp_path / name).code == 0
    a, b = (json.loads((tmp_path / name / "results.json").read_text())["rows"] for name in "ab")
    assert a == b


def test_image2lmdb_files_give_the_same_network_packed_or_not(recipe, image2lmdb, run_command, tmp_path):
    code, _, err = run_command("pack", image2lmdb, tmp_path / "packed", "--classes", 3)
    assert code == 0, err
    assert "train.lmdb: 36/36 images" in err
    for name, more in (
        ("a", ()),
        ("b", ("data.name=lmdb", f"data.root={image2lmdb}", "data.classes=3", "data.workers=2")),
        ("c", ("data.name=lmdb", f"data.root={tmp_path / 'packed'}")),
    ):
        code, _, err = run_command("train", recipe, "train.epochs=1", *more, "--run", tmp_path / name)
        assert code == 0, err
    a, b, c = (json.loads((tmp_path / name / "results.json").read_text())["rows"] for name in "abc")
    assert a == b == c


@pytest.mark.slow
def test_two_processes_train_evaluate_and_search_as_one(recipe, run_command, forks, tmp_path):
    def rows(run):
        return json.loads((run / "results.json").read_text())["rows"]

    def close(a, b):
        for x, y in zip(a, b, strict=True):
            assert x["loss"] == pytest.approx(y["loss"], rel=1e-2)
            assert abs(x["accuracy"] - y["accuracy"]) <= 1 / 12 + 1e-9
            assert x["images"] == y["images"] == 12

    one, two = tmp_path / "one", tmp_path / "two"
    assert run_command("train", recipe, "--run", one).code == 0
    for done in forks.together("train", recipe, "--run", two):
        assert done.code == 0, done.err
    close(rows(one), rows(two))
    command = ["search", "--budget", "macs=60%", "--images", "4", "--batch-size", "4", "--steps", "2"]
    assert run_command(command[0], one, *command[1:]).code == 0
    front = (one / "front.json").read_text()
    (one / "search.jsonl").unlink()
    for done in forks.together(command[0], one, *command[1:]):
        assert done.code == 0, done.err
    assert (one / "front.json").read_text() == front


@pytest.mark.slow
def test_processes_that_cannot_share_a_batch(recipe, forks, tmp_path):
    done = forks.together("train", recipe, "data.batch_size=3", "--run", tmp_path / "run")
    assert [d.code for d in done] == [2, 2]
    errors = [line for d in done for line in d.err.splitlines() if "error:" in line]
    assert any("data.batch_size = 3: cannot be shared evenly by 2 processes" in line for line in errors)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root.rename(root.with_name("gone")), "no such folder; set data.root"),
        (lambda root: [p.unlink() for p in (root / "train" / "red").iterdir()], "the class has no images"),
        (lambda root: (root / "train" / "red").rename(root.with_name("away")), "are not the same (red)"),
    ],
)
def test_data_that_is_not_there(recipe, images, refused, tmp_path, spoil, message):
    spoil(images)
    assert message in refused("train", recipe, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.kwargs.num_classes=2",
            "gives 2 logits for the 3 classes of the data; set model.kwargs.num_classes",
        ),
        ("data.classes=5", "expected 5"),
        ("data.image_size=0", "image_size = 0: expected at least 1 pixel"),
        ("data.augment.flip=3", "augment.flip = 3.0: expected a number from 0 to 1"),
        ("data.augment.flap=3", "unknown key 'data.augment.flap'; did you mean 'data.augment.flip'?"),
        ("data.held_out=36", "leaves none of the 36 training images"),
        ("widths.listed={small: [4, 4]}", "a list of channels needs one number for each of the"),
        ("widths.listed={small: {nothing: 3}}", "unknown channel group 'nothing'"),
        ("widths.listed={small: {conv: 30}}", "cannot have 30 channels: it takes 1 to"),
        ("widths.listed=none.json", "none.json: no such file"),
        ("model.weights=none.pt", "none.pt: no such file"),
        ("widths.policy=sandwitch", "did you mean 'sandwich'"),
        ("train.target=wider", "unknown target 'wider'"),
        ("train.target=ema train.ema=0", "unknown"),
        ("train.optimizer=sdg", "unknown optimiser 'sdg'"),
        ("train.best=0.3", "unknown metric '0.3'"),
        ("train.compile=true", "expected a grid of uniform ratios"),
    ],
)
def test_a_mistake_is_one_line(recipe, refused, tmp_path, override, message):
    if override == "train.target=ema train.ema=0":
        assert "set train.ema" in refused("train", recipe, *override.split(), "--run", tmp_path / "run")
        return
    assert message in refused("train", recipe, override, "--run", tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists() or override.startswith("train.best")


def test_unreadable_images_are_counted_and_too_many_stop(recipe, images, run_command, refused, tmp_path):
    for i in range(2):
        (images / "train" / "blue" / f"{i}.png").write_bytes(b"x")
    assert run_command("train", recipe, "train.epochs=1", "--run", tmp_path / "a").code == 0
    assert json.loads((tmp_path / "a" / "results.json").read_text())["corrupt_images"] == 2
    message = refused("train", recipe, "data.corrupt_limit=1", "--run", tmp_path / "b")
    assert "blue" in message
    assert "and 1 before it" in message


def test_an_ordinary_checkpoint_as_the_widest(recipe, run_command, refused, tmp_path):
    import torch

    from anywidth.models import SmallResNet

    model = SmallResNet(in_channels=3, num_classes=3, channels=[4, 8])
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pt")
    code, _, err = run_command(
        "train", recipe, f"model.weights={tmp_path / 'a.pt'}", "--run", tmp_path / "run"
    )
    assert code == 0, err
    torch.save(SmallResNet(channels=[4, 8]).state_dict(), tmp_path / "b.pt")
    assert "does not fit SmallResNet" in refused(
        "train", recipe, f"model.weights={tmp_path / 'b.pt'}", "--run", tmp_path / "other"
    )


@pytest.mark.slow
def test_torchrun_itself(recipe, tmp_path):
    """With the name of the option that torchrun lets through; a mistake ends in one line of ours."""
    command = [
        str(Path(sys.executable).with_name("torchrun")),
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command += ["-m", "anywidth", "train", str(recipe), "--run-dir", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["processes"] == 2


def test_an_unreadable_test_image_is_left_out_even_the_first(recipe, images, run_command, tmp_path):
    (images / "val" / "blue" / "0.png").write_bytes(b"x")
    code, _, err = run_command("train", recipe, "train.epochs=1", "--run", tmp_path / "run")
    assert code == 0, err
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["images"] for row in rows} == {11}


def test_what_changes_no_weight_may_change_when_going_on(recipe, run_command, tmp_path):
    run = tmp_path / "run"
    assert run_command("train", recipe, "--run", run).code == 0
    (run / "results.json").unlink()
    changes = ("data.workers=1", "data.corrupt_limit=3", "train.log_every=7", "train.tensorboard=false")
    code, _, err = run_command("train", recipe, *changes, "--run", run)
    assert code == 0, err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("data.augment.auto=rand-q9",), "timm cannot make or apply this policy"),
        (("data.augment.std=[0, 0, 0]",), "expected three numbers, one for each colour, above 0"),
        (("widths.policy=progressive", "widths.options={until: 2}"), "expected 0 < until <= 1"),
        (("train.target=math:pi",), "is a float, not a function"),
    ],
)
def test_more_mistakes_in_one_line(recipe, refused, tmp_path, changes, message):
    assert message in refused("train", recipe, *changes, "--run", tmp_path / "run")
