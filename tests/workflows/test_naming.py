import socket

import pytest
import torch

from anywidth.errors import RecipeError, WidthError
from anywidth.workflows import naming


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("SmallResNet", "anywidth.models.small_resnet"),
        ("resnet18", "torchvision.models.resnet"),
        ("torchvision:resnet18", "torchvision.models.resnet"),
        ("timm:resnet18", "timm.models.resnet"),
        ("resnet10t", "timm.models.resnet"),
    ],
)
def test_where_a_name_leads(name, module):
    assert type(naming.build_model(name, {"num_classes": 3})).__module__ == module


def test_a_detector_does_not_download_its_backbone():
    model = naming.build_model("torchvision:ssdlite320_mobilenet_v3_large", {"num_classes": 2})
    assert type(model).__name__ == "SSD"


def test_a_network_of_ones_own():
    model = naming.build_model("user_code:Perceptron", {"hidden": 5})
    assert model[1].out_features == 5
    with pytest.raises(
        RecipeError,
        match=r"'nothing_here:Net' cannot be imported: .* expected NAME, torchvision:NAME or timm:NAME, or your own",
    ):
        naming.build_model("nothing_here:Net", {})


def test_arguments_reach_the_constructor():
    model = naming.build_model("SmallResNet", {"channels": [3, 5], "in_channels": 2})
    assert (model.conv.in_channels, model.fc.in_features) == (2, 5)
    assert naming.input_shape(model) == (2, 8, 8)


def test_refused_arguments_are_named():
    with pytest.raises(RecipeError, match=r"model 'SmallResNet' cannot be built with \(depth=3\): .*'depth'"):
        naming.build_model("SmallResNet", {"depth": 3})


@pytest.mark.parametrize(
    ("name", "shape"), [("timm:resnet10t", (3, 176, 176)), ("torchvision:resnet18", (3, 224, 224))]
)
def test_input_shape(name, shape):
    assert naming.input_shape(naming.build_model(name, {})) == shape


def test_widths_are_numbers_or_labels():
    assert naming.parse_widths("0.25, 1,large") == [0.25, 1.0, "large"]
    for text in ("", "0.5,,1"):
        with pytest.raises(WidthError, match="expected numbers or labels with commas"):
            naming.parse_widths(text)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert naming.device_named("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert naming.device_named("auto") == torch.device("cpu")


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="torch sees no GPU on this machine"):
        naming.device_named("cuda")
