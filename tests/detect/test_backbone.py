"""A slimmable classifier as the backbone: features of every width are the classifier's."""

import pytest
import torch
from torch import nn
from torchvision import models as tv
from torchvision.models import detection

import anywidth as aw
from anywidth.detect import elastic_detector, load_backbone_
from anywidth.errors import CheckpointError
from anywidth.interop import slimmable_networks
from anywidth.models import ResNet
from anywidth.models.detectors import detector
from anywidth.norms.bank import NormPolicy, batch_norms
from detector_cases import WIDTHS, shaken_

X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def classifier(norm: NormPolicy = "switchable", widths=WIDTHS):
    net = aw.Elastic(ResNet(50), torch.zeros(1, 3, 64, 64), norm=norm, widths=widths).double()
    return shaken_(net)


def torchvision_classifier(norm: NormPolicy = "switchable", widths=WIDTHS):
    net = aw.Elastic(tv.resnet50(), torch.zeros(1, 3, 64, 64), norm=norm, widths=widths).double()
    return shaken_(net)


def faster(**arguments):
    return elastic_detector("fasterrcnn_resnet50_fpn", num_classes=3, size=64, **arguments).double()


@torch.no_grad()
def last_feature(net, w) -> torch.Tensor:
    """What the classifier's convolutions give."""
    view = net.eval().at(w)
    if isinstance(view, ResNet):
        return view.features(X)
    body = nn.Sequential(*list(view.children())[:-2])
    for m in view.modules():
        assert not m.training
    return body(X)


@torch.no_grad()
def c5(net, w) -> torch.Tensor:
    return net.eval().extract(w).get_submodule("backbone.body")(X)["3"]


@pytest.mark.parametrize("source", [classifier, torchvision_classifier])
def test_features_are_those_of_the_classifier_at_every_width(source):
    given = source()
    net = faster()
    report = load_backbone_(net, given)
    for w in WIDTHS:
        expected = last_feature(given, w)
        torch.testing.assert_close(c5(net, w), expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(
            net.eval().at(w).get_submodule("backbone.body")(X)["3"], expected, rtol=1e-9, atol=1e-10
        )
    assert report.widths == {w: w for w in WIDTHS}
    assert set(report.unused) == ({"fc.weight", "fc.bias"} if source is torchvision_classifier else {"classifier.0.weight", "classifier.0.bias"})  # fmt: skip
    norms = 53
    assert report.loaded == 53 + norms * 5 + 3 * norms * 5


def test_the_norms_of_another_width_would_be_noticed():
    given, net = classifier(), faster()
    load_backbone_(net, given)
    assert not torch.allclose(c5(net, 0.5)[:, :512], last_feature(given, 0.25), rtol=1e-3)
    net.norms.overrides(net.widths[0.5])["backbone.body.bn1.running_mean"][0] += 0.01
    net.drop_views_()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(c5(net, 0.5), last_feature(given, 0.5), rtol=1e-9, atol=1e-10)


def test_calibrated_norms_become_constants():
    given = classifier("shared")
    net = elastic_detector(detector("fasterrcnn_resnet50_fpn", 3).double(), size=64, backbone=given)
    assert net.norms.constant
    for w in (0.25, 1.0):
        torch.testing.assert_close(c5(net, w), last_feature(given, w), rtol=1e-9, atol=1e-10)
    assert not net.model.get_parameter("backbone.body.layer1.0.conv1.weight").requires_grad
    assert net.model.get_parameter("backbone.body.layer2.0.conv1.weight").requires_grad
    assert not net.model.get_parameter("backbone.body.layer2.0.bn1.weight").requires_grad


def test_a_published_classifier_through_its_file(tmp_path):
    given = shaken_(slimmable_networks.new("s_resnet50"))
    state = {}
    norms = batch_norms(given.model)
    for name, t in given.model.state_dict().items():
        path, _, kind = name.rpartition(".")
        if path not in norms:
            state[f"module.{name}"] = t
        elif kind != "num_batches_tracked":
            for k, w in enumerate(given.widths.values()):
                state[f"module.{path}.bn.{k}.{kind}"] = given.norms.overrides(w).get(name, t).detach()
    torch.save({"model": state}, tmp_path / "s_resnet50.pt")
    read = aw.interop.load(tmp_path / "s_resnet50.pt", source="slimmable_networks", model="s_resnet50")
    net = elastic_detector("maskrcnn_resnet50_fpn", preset="reference", size=64, backbone=read).double()
    given.double()
    for w in (0.25, 1.0):
        torch.testing.assert_close(c5(net, w), last_feature(given, w), rtol=1e-9, atol=1e-10)


def test_widths_of_the_detector_that_the_classifier_lacks():
    with pytest.raises(CheckpointError, match=r"lists no width with the channels of 0.25 .* it has 0.5, 1.0"):
        faster(backbone=classifier(widths=(0.5, 1.0)))
    given = aw.Elastic(ResNet(50), torch.zeros(1, 3, 64, 64), norm="shared", widths=WIDTHS)
    with pytest.raises(
        CheckpointError, match=r"no batch-norm statistics at width 0.25; call classifier.calibrate"
    ):
        faster(backbone=given)


def test_classifiers_of_another_network_are_named():
    other = aw.Elastic(tv.resnet18(), torch.zeros(1, 3, 64, 64), norm="switchable", widths=WIDTHS)
    with pytest.raises(CheckpointError, match=r"missing \(backbone.body.layer1.0.conv3.weight.*of another shape \(backbone.body.layer1.0.conv1.weight is \[64, 64, 3, 3\] in the classifier"):  # fmt: skip
        faster(backbone=other)


def test_nothing_changes_when_a_classifier_does_not_fit():
    net = faster()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_backbone_(net, classifier(widths=(0.5, 1.0)))
    after = net.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_mobile_classifier_in_ssdlite():
    """Its tail differs (its last channels are halved), and is named."""
    given = aw.Elastic(tv.mobilenet_v3_large(), torch.zeros(1, 3, 64, 64), norm="switchable", widths=WIDTHS)
    with pytest.raises(CheckpointError, match="does not fit the backbone"):
        elastic_detector("ssdlite320_mobilenet_v3_large", backbone=given)
    assert isinstance(
        detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None), detection.ssd.SSD
    )
