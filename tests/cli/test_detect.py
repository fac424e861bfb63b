"""Detectors from the command line: train, go on, evaluate, report, export, and what is refused."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from anywidth import recipe as recipes
from anywidth import train
from anywidth.train import CHECKPOINT
from anywidth.workflows import latencies, open_run_directory
from coco_images import CATEGORIES, edit, make_coco

RECIPE = """\
detector:
  name: maskrcnn_resnet50_fpn
  preset: full
  min_size: 64
  max_size: 96
  size: 96
  kwargs:
    rpn_pre_nms_top_n_train: 20
    rpn_post_nms_top_n_train: 20
    rpn_pre_nms_top_n_test: 20
    rpn_post_nms_top_n_test: 20
    box_batch_size_per_image: 8
    box_detections_per_img: 5
    box_score_thresh: 0.0
widths: {listed: [0.25, 1.0]}
train: {epochs: 2, lr: 0.005, nesterov: false, clip: 35, log_every: 1}
calibration: {batches: 2}
threads: 1
device: cpu
"""


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return make_coco(tmp_path_factory.mktemp("coco") / "data", train=5, val=3)


@pytest.fixture(scope="module")
def recipe(coco) -> Path:
    path = coco.parent / "recipe.yaml"
    path.write_text(RECIPE + yaml.safe_dump({"data": {"root": str(coco), "batch_size": 2}}))
    return path


@pytest.fixture(scope="module")
def run(recipe, run_command, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("detect") / "run"
    code, out, err = run_command("train", recipe, "--run", path)
    assert code == 0, err
    assert "box, %" in out
    assert "mask, %" in out
    return path


def saved_net(path: Path):
    task = open_run_directory(path).task
    return task.saved_net(task.open(path))


def with_pycocotools(truth: Path, results: Path, kind: str) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def test_metrics_are_those_of_pycocotools_on_the_written_json(run, coco):
    found = json.loads((run / "results.json").read_text())
    truth = coco / "annotations" / "instances_val2017.json"
    assert [row["width"] for row in found["rows"]] == [0.25, 1.0]
    for row in found["rows"]:
        assert set(row["metrics"]) == {"bbox", "segm"}
        for kind, metrics in row["metrics"].items():
            path = run / "detections" / f"{row['width']}-{kind}.json"
            results = json.loads(path.read_text())
            assert results
            assert {r["category_id"] for r in results} <= set(CATEGORIES)
            assert metrics["AP"] == pytest.approx(with_pycocotools(truth, path, kind), abs=1e-9)
    narrow, wide = found["rows"]
    assert set(narrow["macs_of_parts"]) == {"backbone", "neck", "rpn", "box", "mask", "total"}
    assert narrow["macs"] < 0.1 * wide["macs"]


def test_evaluated_again(run, run_command):
    code, _, err = run_command(
        "eval", run, "--widths", "listed", "--metrics", "bbox", "--latency", "--backend", "pycocotools"
    )
    assert code == 0, err
    again = json.loads((run / "eval.json").read_text())["rows"]
    first = json.loads((run / "results.json").read_text())["rows"]
    for a, b in zip(again, first, strict=True):
        assert set(a["metrics"]) == {"bbox"}
        assert a["metrics"]["bbox"] == pytest.approx(b["metrics"]["bbox"], abs=1e-6)
        assert a["latency"] > 0


def test_latency_is_of_the_size_that_costs_are_of(run, run_command, monkeypatch, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    edit_recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    edit_recipe["detector"]["size"] = 160  # images are scaled to 64 to 96
    (copy / "recipe.yaml").write_text(yaml.safe_dump(edit_recipe))
    real, seen = GeneralizedRCNNTransform.forward, set()

    def forward(self, *arguments):
        found = real(self, *arguments)
        seen.add(tuple(found[0].tensors.shape[-2:]))
        return found

    def measured(functions, **options):
        monkeypatch.setattr(GeneralizedRCNNTransform, "forward", forward)
        return measure_all(functions, **options)

    measure_all = latencies.measure_all
    monkeypatch.setattr(latencies, "measure_all", measured)
    code, _, err = run_command("eval", copy, "--widths", "0.25", "--metrics", "bbox", "--latency")
    assert code == 0, err
    assert seen == {(160, 160)}


def test_a_report_shows_what_every_width_finds(run, run_command):
    code, out, err = run_command("report", run)
    assert code == 0, err
    assert "detections-1.png" in out
    for name in ("report.png", "detections-1.png"):
        with Image.open(run / name) as picture:
            assert picture.size[0] > 500


def test_an_exported_detector_runs_without_this_package(run, run_command, without_anywidth, tmp_path):
    code, _, err = run_command("export", run, "--width", "0.25", "--out", tmp_path / "out")
    assert code == 0, err
    x = torch.rand(3, 80, 96, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import warnings; warnings.simplefilter('ignore'); import torch, torchvision; "
        f"m = torch.jit.load({str(tmp_path / 'out' / 'model.ts')!r}); "
        f"print(m([torch.load({str(tmp_path / 'x.pt')!r})])[1][0]['boxes'].tolist())"
    )
    boxes = torch.tensor(json.loads(without_anywidth(code).splitlines()[-1]))
    net = saved_net(run).eval()
    with torch.no_grad():
        expected = net.at(0.25)([x])[0]["boxes"]
    torch.testing.assert_close(boxes, expected, rtol=1e-4, atol=1e-3)
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["category_ids"] == sorted(CATEGORIES)


def test_a_report_keeps_what_the_last_evaluation_did_not_measure(run, run_command, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    code, _, err = run_command("eval", copy, "--widths", "0.25", "--metrics", "bbox")
    assert code == 0, err
    code, _, err = run_command("report", copy)
    assert code == 0, err
    rows = json.loads((copy / "report.json").read_text())["rows"]
    assert [set(row["metrics"]) for row in rows] == [{"bbox", "segm"}] * 2


def test_a_report_leaves_out_what_is_no_category(run, run_command, monkeypatch):
    """One-stage detectors of torchvision give label 0 too."""
    real = RoIHeads.postprocess_detections

    def postprocess(self, *arguments):
        boxes, scores, labels = real(self, *arguments)
        return boxes, scores, [torch.zeros_like(found) for found in labels]

    monkeypatch.setattr(RoIHeads, "postprocess_detections", postprocess)
    code, out, err = run_command("report", run)
    assert code == 0, err
    assert "detections-1.png" in out


def test_classes_to_spare_are_never_found(recipe, run_command, tmp_path):
    changes = (
        "detector.name=ssdlite320_mobilenet_v3_large", "detector.kwargs={score_thresh: 0.0}", "detector.num_classes=30",
        "detector.min_size=800", "detector.max_size=1333", "train.epochs=1",
    )  # fmt: skip
    code, _, err = run_command("train", recipe, *changes, "--run", tmp_path / "run")
    assert code == 0, err
    results = json.loads((tmp_path / "run" / "detections" / "1.0-bbox.json").read_text())
    assert results
    assert {r["category_id"] for r in results} <= set(CATEGORIES)
    code, _, err = run_command("report", tmp_path / "run")
    assert code == 0, err


def test_keypoints_of_other_bodies_need_their_spread(recipe, coco, refused, run_command, tmp_path):
    root = tmp_path / "coco"
    shutil.copytree(coco, root)

    def cut(document):
        document["categories"][0]["keypoints"] = document["categories"][0]["keypoints"][:5]
        for entry in document["annotations"]:
            entry["keypoints"] = entry["keypoints"][:15]

    for part in ("train", "val"):
        edit(root / "annotations" / f"person_keypoints_{part}2017.json", cut)
    changes = ("detector.name=keypointrcnn_resnet50_fpn", f"data.root={root}", "train.epochs=1")
    message = refused("train", recipe, *changes, "--run", tmp_path / "run")
    assert "the data has 5 keypoints, and data.sigmas is of COCO's 17" in message
    assert not (tmp_path / "run").exists()
    assert "data.sigmas has 2" in refused(
        "train", recipe, *changes, "data.sigmas=[0.1, 0.1]", "--run", tmp_path / "run"
    )
    code, out, err = run_command(
        "train", recipe, *changes, "data.sigmas=[0.1, 0.1, 0.1, 0.05, 0.05]", "--run", tmp_path / "run"
    )
    assert code == 0, err
    assert "keypoint, %" in out


class Stopped(Exception):  # noqa: N818 - a kill, not a mistake
    pass


def test_an_interrupted_training_ends_with_the_same_weights(run, recipe, run_command, tmp_path, monkeypatch):
    path = tmp_path / "run"
    real = train.engine.Engine.step_
    steps = []

    def step_(self, *arguments, **options):
        if len(steps) == 3:
            raise Stopped
        steps.append(1)
        return real(self, *arguments, **options)

    monkeypatch.setattr(train.engine.Engine, "step_", step_)
    with pytest.raises(Stopped):
        run_command("train", recipe, "--run", path)
    assert (path / CHECKPOINT).exists()
    monkeypatch.undo()
    code, _, err = run_command("train", recipe, "--run", path)
    assert code == 0, err
    wanted = saved_net(run).state_dict()
    for name, t in saved_net(path).state_dict().items():
        assert torch.equal(t, wanted[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("detector.name=yolo",), "detector.name = 'yolo' is unknown; known are fasterrcnn_resnet50_fpn"),
        (("detector.nam=x",), "unknown key 'detector.nam'; did you mean 'detector.name'?"),
        (("detector.parts={tail: 0.5}",), "'tail' is no part of a detector"),
        (("detector.num_classes=2",), "the data has 3 categories, so 4 with the background are needed"),
        (("detector.kwargs={backbone: 1}",), "detector.kwargs"),
        (("detector.kwargs={boxes_score: 0.1}",), "boxes_score"),
        (("detector.kwargs={min_size: 3}",), "detector.kwargs: min_size is set by a key"),
        (("detector.name=retinanet_resnet50_fpn", "detector.kwargs={}", "losses.proposals=widest"), "use 'own'"),
        (("widths.listed={a/b: 0.25, wide: 1.0}",), "the label 'a/b' names files, so it cannot hold '/'"),
        (("detector.norm=shared", "detector.constant_norms=true", "widths.policy=sandwich"), "widths.policy = 'sandwich' draws widths that have none; set detector.constant_norms"),
        (("widths.listed=[]",), "widths.listed is empty"),
        (("detector.name=ssdlite320_mobilenet_v3_large", "detector.kwargs={}", "detector.min_size=200"), "SSDlite scales every image to 320 x 320"),
        (("losses.distill=-1",), "distill = -1"),
        (("train.target=ema",), "train.target is a setting of classifiers"),
        (("widths.policy=sandwich",), "expected widths.policy = 'listed' or 'listed_sandwich'"),
        (("detector.name=keypointrcnn_resnet50_fpn", "detector.kwargs={}", "data.train_keypoints=annotations/instances_train2017.json"), "keypoints"),
        (("data.root=/nowhere",), "/nowhere"),
        (("data.batch_size=200",), "do not fill one batch"),
        (("detector.backbone={weights: nowhere.safetensors}",), "nowhere.safetensors"),
        (("detector.name=ssdlite320_mobilenet_v3_large", "detector.kwargs={}", "detector.min_size=800", "detector.max_size=1333", "data.batch_size=1"), "two images or more"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(recipe, refused, tmp_path, arguments, message):
    assert message in refused("train", recipe, "--run", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_broken_data_is_named(coco, recipe, refused, tmp_path):
    root = tmp_path / "coco"
    shutil.copytree(coco, root)
    edit(
        root / "annotations" / "instances_train2017.json",
        lambda d: [a.pop("segmentation") for a in d["annotations"]],
    )
    assert "instances_train2017.json" in refused(
        "train", recipe, f"data.root={root}", "--run", tmp_path / "run"
    )
    next((root / "train2017").iterdir()).unlink()
    assert "train2017" in refused("train", recipe, f"data.root={root}", "--run", tmp_path / "run")


def test_mistakes_of_other_verbs(run, refused, recipe):
    assert "gives bbox, segm" in refused("eval", run, "--widths", "0.25", "--metrics", "keypoints")
    assert "only listed widths exist" in refused("eval", run, "--widths", "0.4")
    assert "say which widths" in refused("eval", run)
    assert "fronts are of classifiers" in refused("eval", run, "--pareto")
    assert "say which width" in refused("export", run)
    assert "holds the run of a detector" in refused("gate", run)
    assert "train.epochs was 2 and is 3" in refused("train", recipe, "train.epochs=3", "--run", run)


def test_weights_of_an_ordinary_detector_are_calibrated(run, recipe, run_command, tmp_path):
    torch.save(saved_net(run).model.state_dict(), tmp_path / "wide.pth")
    changes = (f"detector.weights={tmp_path / 'wide.pth'}", "train.epochs=1", "train.lr=1.0e-9")
    code, _, err = run_command("train", recipe, *changes, "--run", tmp_path / "run")
    assert code == 0, err
    assert "calibrating 1 widths of ordinary weights" in err
    net = saved_net(tmp_path / "run")
    assert net.has_statistics(0.25)
    assert recipes.load_detection(tmp_path / "run" / "recipe.yaml").detector.weights == str(
        tmp_path / "wide.pth"
    )
