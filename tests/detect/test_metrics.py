import json
import sys

import numpy as np
import pytest
import torch

from anywidth.data import CocoConfig, coco_set
from anywidth.detect.metrics import NAMES, coco_metrics
from anywidth.detect.results import of_kind, to_coco
from anywidth.errors import DataError
from coco_images import edit, make_coco

BACKENDS = ("faster_coco_eval", "pycocotools")
ALL = ("bbox", "segm", "keypoints")


def document(boxes, size=200):
    """One image; boxes by category."""
    annotations = [
        {"id": n, "image_id": 5, "category_id": category, "bbox": box}
        for n, (category, box) in enumerate((c, b) for c, found in boxes.items() for b in found)
    ]
    return {
        "images": [{"id": 5, "file_name": "x.png", "width": size, "height": size}],
        "annotations": annotations,
        "categories": [{"id": id, "name": str(id)} for id in (2, 4)],
    }


def result(box, score, category=2, image_id=5):
    return {"image_id": image_id, "category_id": category, "bbox": box, "score": score}


HIT, MISS, OTHER = [10, 10, 50, 50], [120, 120, 50, 50], [100, 10, 20, 20]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("boxes", "results", "expected"),
    [
        ({2: [HIT]}, [(HIT, 0.9)], {"AP": 1, "AP50": 1, "AP75": 1, "APs": -1, "APm": 1, "APl": -1}),
        ({2: [HIT]}, [(HIT, 0.9), (MISS, 0.5)], {"AP": 1}),  # the wrong one comes after all are found
        ({2: [HIT]}, [(HIT, 0.5), (MISS, 0.9)], {"AP": 0.5, "AP50": 0.5}),  # 1 of 2 at every recall
        ({2: [HIT]}, [(MISS, 0.9)], {"AP": 0, "AP50": 0, "APm": 0}),
        ({2: [HIT, OTHER]}, [(HIT, 0.9)], {"AP": 51 / 101, "APs": 0, "APm": 1}),  # recalls 0, 0.01, ..., 0.5 of 101
        ({2: [HIT]}, [([10, 10, 50, 31], 0.9)], {"AP": 0.3, "AP50": 1, "AP75": 0}),  # IoU 0.62: .5, .55 and .6 of 10
        ({2: [HIT], 4: [MISS]}, [(HIT, 0.9)], {"AP": 0.5}),  # the mean of two categories
        ({2: [HIT]}, [], {"AP": 0, "AP50": 0, "APs": -1}),
        ({}, [(HIT, 0.9)], {"AP": -1}),
        ({}, [], {"AP": -1}),
    ],
)  # fmt: skip
def test_cases_worked_out_by_hand(boxes, results, expected, backend):
    made = [result(*values) for values in results]
    found = coco_metrics(document(boxes), made, backend=backend)
    assert list(found) == ["bbox"]
    assert tuple(found["bbox"]) == NAMES["bbox"]
    for name, value in expected.items():
        assert found["bbox"][name] == pytest.approx(value, abs=1e-6), name


def average_precision(truth, results, thresholds) -> float:
    """The definition, for boxes, without crowds and sizes."""
    values = []
    for category in {a["category_id"] for a in truth["annotations"]}:
        boxes = [a for a in truth["annotations"] if a["category_id"] == category]
        mine = sorted((r for r in results if r["category_id"] == category), key=lambda r: -r["score"])
        for threshold in thresholds:
            free, hits = list(boxes), []
            for r in mine:
                near = [(iou(r["bbox"], a["bbox"]), a) for a in free if a["image_id"] == r["image_id"]]
                best = max(near, key=lambda pair: pair[0], default=(0, None))
                hits.append(best[0] >= threshold)
                if hits[-1]:
                    free.remove(best[1])
            right = np.cumsum(hits)
            recall, precision = right / len(boxes), right / np.arange(1, len(hits) + 1)
            values += [
                max((p for p, r in zip(precision, recall, strict=True) if r >= wanted - 1e-12), default=0.0)
                for wanted in np.linspace(0, 1, 101)
            ]
    return float(np.mean(values))


def iou(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("data") / "coco", val=8)


def outputs_of(root, need, noise, seed=0):
    """The ground truth, shaken, as a detector gives it, with some wrong detections."""
    images = coco_set(CocoConfig(root=str(root)), "val", need)
    draws = torch.Generator().manual_seed(seed)
    outputs, ids = [], []
    for position in range(len(images)):
        _, target = images.item(position)
        keep = target["iscrowd"] == 0
        boxes = target["boxes"][keep]
        count = len(boxes)
        wrong = torch.rand(count, generator=draws) < 0.3
        labels = torch.where(wrong, 1 + target["labels"][keep] % len(images.classes), target["labels"][keep])
        output = {
            "boxes": boxes + noise * torch.randn(boxes.shape, generator=draws),
            "labels": labels,
            "scores": torch.rand(count, generator=draws),
        }
        if "masks" in need:
            output["masks"] = target["masks"][keep].roll(round(noise), 1)[:, None] * 0.9
        if "keypoints" in need:
            output["keypoints"] = target["keypoints"][keep]
            output["keypoints"][..., :2] += noise * torch.randn(count, 17, 2, generator=draws)
        outputs.append(output)
        ids.append(target["image_id"])
    return outputs, ids, images


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(
    ("need", "kinds"),
    [(("masks",), ("bbox", "segm")), (("masks", "keypoints"), ALL), (("keypoints",), ("keypoints",))],
)
def test_both_packages_agree(root, need, kinds, noise):
    outputs, ids, images = outputs_of(root, need, noise)
    results = to_coco(outputs, ids, images.raw_ids, kinds)
    a, b = (coco_metrics(images.path, results, kinds, backend=backend) for backend in BACKENDS)
    assert tuple(a) == kinds
    for kind in kinds:
        assert a[kind] == pytest.approx(b[kind], abs=1e-12)
        assert tuple(a[kind]) == NAMES[kind]
        assert a[kind]["AP"] > 0.03
    worse = [{**r, "score": 1 - r["score"]} for r in results]
    if "segm" in kinds and "keypoints" not in kinds:  # the comparison can fail
        assert coco_metrics(images.path, worse, kinds)["bbox"] != pytest.approx(a["bbox"], abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_definition_gives_the_same(root, seed):
    outputs, ids, images = outputs_of(root, ("boxes",), 2.0, seed)
    results = to_coco(outputs, ids, images.raw_ids)
    truth = json.loads(images.path.read_text())
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    found = coco_metrics(truth, results)["bbox"]
    for name, thresholds in (("AP", np.arange(10) / 20 + 0.5), ("AP50", [0.5]), ("AP75", [0.75])):
        assert found[name] == pytest.approx(average_precision(truth, results, thresholds), abs=1e-9)
        wrong = average_precision(truth, results[: len(results) // 2], thresholds)
        assert abs(found[name] - wrong) > 1e-3  # the comparison can fail


def test_the_truth_is_perfect_and_results_are_plain_values(root):
    outputs, ids, images = outputs_of(root, ("masks", "keypoints"), 0.0)
    for output in outputs:
        output["labels"] = torch.ones_like(output["labels"])
    results = to_coco(outputs, ids, images.raw_ids, ALL)
    again = json.loads(json.dumps(results))
    assert again == results
    for backend in BACKENDS:
        found = coco_metrics(str(images.path), again, ALL, backend=backend)
        assert [found[kind]["AP"] for kind in ALL] == pytest.approx([1, 1, 1])
    assert again == results  # not changed


def test_size_of_a_mask_is_not_that_of_its_box(root):
    """A small disc in a medium box: with boxes left in, packages take it for a medium one."""
    outputs, ids, images = outputs_of(root, ("masks",), 0.0)
    results = to_coco(outputs, ids, images.raw_ids, ("bbox", "segm"))
    alone = to_coco(outputs, ids, images.raw_ids, ("segm",))
    assert of_kind(results, "segm") == of_kind(alone, "segm")
    assert set(of_kind(results, "segm")[0]) == {"image_id", "category_id", "score", "segmentation"}
    assert coco_metrics(images.path, results, ("segm",)) == coco_metrics(images.path, alone, ("segm",))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_part_of_the_images(root, backend):
    outputs, ids, images = outputs_of(root, ("boxes",), 2.0)
    results = to_coco(outputs, ids, images.raw_ids)
    some = ids[1:4]
    truth = json.loads(images.path.read_text())
    cut = {
        **truth,
        "images": [i for i in truth["images"] if i["id"] in some],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in some],
    }
    expected = coco_metrics(cut, [r for r in results if r["image_id"] in some], backend=backend)
    assert coco_metrics(images.path, results, image_ids=some, backend=backend) == expected
    assert coco_metrics(images.path, results, backend=backend) != expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found_is_zero(root, backend):
    path = root / "annotations" / "person_keypoints_val2017.json"
    found = coco_metrics(path, [], ALL, backend=backend)
    assert [found[kind]["AP"] for kind in ALL] == [0, 0, 0]
    (none,) = outputs = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    none |= {"scores": torch.zeros(0), "masks": torch.zeros(0, 1, 5, 5), "keypoints": torch.zeros(0, 17, 3)}
    assert to_coco(outputs, [101], (1,), ALL) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_keypoints_of_other_bodies(root, tmp_path, backend):
    path = tmp_path / "hands.json"
    path.write_text((root / "annotations" / "person_keypoints_val2017.json").read_text())

    def change(document):
        for entry in document["annotations"]:
            entry["keypoints"] = entry["keypoints"][:9]
            del entry["num_keypoints"]

    truth = edit(path, change)
    results = [{**a, "score": 0.5, "keypoints": a["keypoints"]} for a in truth["annotations"]]
    with pytest.raises(DataError, match="has 3 keypoints, expected 17; give the spread"):
        coco_metrics(path, results, ("keypoints",), backend=backend)
    found = coco_metrics(path, results, ("keypoints",), backend=backend, sigmas=[0.05] * 3)
    assert found["keypoints"]["AP"] == pytest.approx(1)


def test_nothing_is_printed(root, capsys):
    path = root / "annotations" / "instances_val2017.json"
    for backend in BACKENDS:
        coco_metrics(path, [result([1, 1, 9, 9], 0.5, 1, 101)], backend=backend)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_package_names_the_extra(monkeypatch, backend):
    for name in [*sys.modules]:
        if name.split(".")[0] == backend:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(DataError, match=rf"needs the package {backend}.*pip install 'anywidth\[detect\]'"):
        coco_metrics(document({2: [HIT]}), [], backend=backend)


def test_wrong_results_are_named():
    truth = document({2: [HIT]})
    with pytest.raises(ValueError, match="a result is for image id 6, which is none of the 1 images"):
        coco_metrics(truth, [result(HIT, 0.5, image_id=6)])
    with pytest.raises(ValueError, match="image id 5 has category_id 3, which is none of the 2 categories"):
        coco_metrics(truth, [result(HIT, 0.5, category=3)])
    with pytest.raises(ValueError, match="a result for image id 5 has no 'keypoints'"):
        of_kind([result(HIT, 0.5)], "keypoints")
    with pytest.raises(ValueError, match=r"kinds: \['box'\]: expected some of bbox, segm, keypoints"):
        coco_metrics(truth, [], ("box",))
    with pytest.raises(ValueError, match="backend = 'x': expected 'faster_coco_eval' or 'pycocotools'"):
        coco_metrics(truth, [], backend="x")


@pytest.mark.parametrize(
    ("kind", "match"),
    [("segm", r"no segmentation.*instances_\*"), ("keypoints", r"no keypoints.*person_keypoints_\*")],
)
def test_ground_truth_without_what_is_measured(kind, match):
    with pytest.raises(DataError, match=f"annotation 0 of image id 5 has {match}"):
        coco_metrics(document({2: [HIT]}), [], (kind,))


def test_ground_truth_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json: no such file of annotations"):
        coco_metrics(path, [])
    path.write_text("{")
    with pytest.raises(DataError, match=r"a\.json: is not JSON"):
        coco_metrics(path, [])
    path.write_text("{}")
    with pytest.raises(DataError, match=r"a\.json: has no list 'images'"):
        coco_metrics(path, [])
