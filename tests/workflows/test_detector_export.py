import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from anywidth.elastic import Elastic
from anywidth.workflows.detector_export import detector_exports
from anywidth.workflows.task_options import ExportOptions

X = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Elastic:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    return Elastic(model, X, widths={"small": 0.25, "large": 1.0})


@pytest.fixture
def run(net) -> SimpleNamespace:
    detector = SimpleNamespace(name="retinanet_resnet50_fpn", size=96)
    return SimpleNamespace(
        recipe=SimpleNamespace(detector=detector),
        splits=SimpleNamespace(classes=("person", "disc"), raw_ids=(1, 7)),
        calibrate_=lambda net, widths: net.calibrate([X], widths=widths),
    )


def exported(run, net, reporter, width):
    (one,) = detector_exports(run, net, ExportOptions(width=width), reporter)
    return one


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")  # torch, about itself
def test_files_are_those_of_the_extracted_width(run, net, recorder, tmp_path):
    export = exported(run, net, recorder, "small")
    export.write(tmp_path)
    small = net.extract("small").eval()
    weights = load_file(tmp_path / "model.safetensors")
    assert {key: t.shape for key, t in weights.items()} == {
        key: t.shape for key, t in small.state_dict().items()
    }
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "model.ts"))(X), small(X))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors", "model.ts"]


def test_the_description_says_what_was_written(run, net, recorder, tmp_path):
    exported(run, net, recorder, "0.5").write(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    assert (description["model"], description["width"]) == ("retinanet_resnet50_fpn", 0.5)
    assert description["params"] == net.params(0.5)
    assert (description["classes"], description["category_ids"]) == (["person", "disc"], [1, 7])
    assert description["shapes"]["0.weight"] == [4, 3, 1, 1]
    assert "(3, 96, 96)" in description["input"]


def test_a_width_without_statistics_is_calibrated_once(run, net, recorder):
    assert exported(run, net, recorder, 0.5).name == "0.5"
    exported(run, net, recorder, 0.5)
    exported(run, net, recorder, "large")
    assert recorder.messages == ["calibrating 0.5"]
