"""Every detector at every width: a view and its extracted copy agree; what is elastic, and what is constant."""

import io
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from anywidth.detect import DETECTORS, elastic_detector, groups_of, list_parts_
from anywidth.errors import OrdinaryWeightsWarning, WidthError
from anywidth.models.detectors import detector
from anywidth.norms.bank import batch_norms
from detector_cases import (
    WIDTHS,
    assert_same,
    detections,
    detections_of_nothing,
    images,
    losses,
    options,
    small,
    total,
)

PRESETS = ("full", "reference")
RESNETS = DETECTORS[:-1]


def tiny(**arguments):
    return elastic_detector("fasterrcnn_resnet50_fpn", size=64, **{"num_classes": 3, **arguments})


def precision(name: str) -> torch.dtype:
    """Boxes of two stages are sampled and suppressed twice: double precision keeps rounding from deciding that."""
    return torch.float64 if "rcnn" in name else torch.float32


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", DETECTORS)
def test_a_view_is_its_extracted_copy(name, preset):
    net = small(name, preset=preset, dtype=precision(name))
    seen = []
    for w in WIDTHS:
        net.train()
        with torch.no_grad():
            expected = losses(copy := net.extract(w), name)
            if w == 0.5:  # gradients on too: another path through the view
                with torch.enable_grad():
                    assert_same(losses(net.at(w), name), expected)
            else:
                assert_same(losses(net.at(w), name), expected)
        net.eval()
        assert_same(detections(net.at(w), name), found := detections(copy, name))
        if w == 0.25:  # it looks at the image
            assert not torch.equal(found["scores"], detections_of_nothing(copy, name)["scores"])
        seen.append(total(expected).item())
        assert type(copy) is type(net.model)
        assert sum(p.numel() for p in copy.parameters()) <= net.params(w)
    assert len(set(seen)) == len(WIDTHS)  # widths are different networks


def test_the_comparison_notices_another_network():
    net = small("fasterrcnn_resnet50_fpn")
    net.train()
    copy = net.extract(0.5)
    with torch.no_grad():
        right = losses(copy, "fasterrcnn_resnet50_fpn")
        copy.get_parameter("backbone.body.layer4.0.conv2.weight")[0] *= 1.01
        wrong = losses(copy, "fasterrcnn_resnet50_fpn")
        with pytest.raises(AssertionError, match="loss"):
            assert_same(right, wrong)
        with pytest.raises(AssertionError):
            assert_same(
                detections(net.at(0.5), "fasterrcnn_resnet50_fpn"),
                detections(copy, "fasterrcnn_resnet50_fpn"),
            )


@pytest.mark.parametrize("name", DETECTORS)
def test_the_full_width_is_the_plain_detector(name):
    net = small(name, dtype=precision(name))
    assert_same(detections(net.at(1.0), name), detections(net.model, name))


@pytest.mark.parametrize("name", DETECTORS)
def test_every_weight_with_two_channel_axes_narrows_in_the_preset_full(name):
    net = elastic_detector(name, size=320 if "ssd" in name else 64)
    small = net.extract(0.5)
    outputs = ("cls_logits", "bbox_pred", "bbox_reg", "bbox_ctrness", "cls_score", "fcn_logits", "lowres", "head.classification_head.module_list", "head.regression_head.module_list")  # fmt: skip
    for path, m in net.model.named_modules():
        if not isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            continue
        narrow = small.get_submodule(path)
        makes = 1 if isinstance(m, nn.ConvTranspose2d) else 0
        fixed = any(word in path for word in outputs) and getattr(m, "groups", 1) == 1
        assert narrow.weight.shape[makes] == m.weight.shape[makes] // (1 if fixed else 2), path
    assert groups_of(net.space)["backbone"]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_preset_reference_narrows_the_backbone_alone(name):
    net = elastic_detector(name, preset="reference", size=320 if "ssd" in name else 64)
    assert not groups_of(net.space)["neck"]
    assert not groups_of(net.space)["heads"]
    view = net.at(0.25)
    if name in RESNETS:
        lateral = view.get_submodule("backbone.fpn.inner_blocks.0.0")
        assert lateral.weight.shape[0] == 256
        assert lateral.weight.shape[1] == (64 if "rcnn" in name else 128)
        for part in ("backbone.fpn.layer_blocks", "rpn", "roi_heads", "head"):
            if part.split(".")[0] in dict(view.named_children()):
                for (path, p), q in zip(
                    view.get_submodule(part).named_parameters(),
                    net.model.get_submodule(part).parameters(),
                    strict=True,
                ):
                    assert p.shape == q.shape, path


def test_group_norms_keep_eight_channels_each():
    net = elastic_detector("fcos_resnet50_fpn", size=64)
    for w, groups in ((0.25, 8), (0.5, 16), (0.75, 24), (0.3, 10)):
        view = net.at(w if w in net.widths else list_parts_(net, "thin heads", heads=w))
        m = view.get_submodule("head.classification_head.conv.1")
        assert (m.num_groups, m.num_channels) == (groups, 8 * groups)
    with pytest.raises(
        WidthError, match=r"'head.classification_head.conv.0' cannot have 100 channels.*multiples of 8"
    ):
        net.space.width({"head.classification_head.conv.0": 100})


def test_constant_norms_do_not_change_in_training():
    name = "fasterrcnn_resnet50_fpn"
    net = small(name, preset="reference")
    before = {n: t.clone() for n, t in net.state_dict().items()}
    net.train()
    for w in WIDTHS:
        total(losses(net.at(w), name)).backward()
    after = net.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items())
    for path, m in batch_norms(net.model).items():
        assert m.weight.grad is None, path
        assert m.bias.grad is None, path
    assert all(p.grad is None for p in net.norms.parameters())
    frozen = ("backbone.body.conv1", "backbone.body.layer1")
    for n, p in net.model.named_parameters():
        if ".bn" not in n and "downsample.1" not in n:
            assert (p.grad is None) == n.startswith(frozen), n


def test_copies_have_frozen_norms_that_stay_in_training():
    net = small("fasterrcnn_resnet50_fpn")
    copy = net.extract(0.5).train()
    assert not batch_norms(copy)
    norm = copy.get_submodule("backbone.body.bn1")
    assert isinstance(norm, FrozenBatchNorm2d)
    w = net.norms.overrides(net.widths[0.5])
    assert torch.equal(norm.running_mean, w["backbone.body.bn1.running_mean"])
    assert torch.equal(norm.weight, w["backbone.body.bn1.weight"])


def test_norms_of_ssdlite_learn():
    name = "ssdlite320_mobilenet_v3_large"
    net = small(name)
    assert not net.norms.constant
    net.train()
    model, x = net.at(0.5), images(name, 2)
    total(
        model(x, [{"boxes": torch.tensor([[10.0, 20, 200, 220]]), "labels": torch.tensor([1])}] * 2)
    ).backward()
    assert any(p.grad is not None for p in net.norms.parameters())
    assert int(net.norms.overrides(net.widths[0.5])["backbone.features.0.0.1.num_batches_tracked"]) == 2


def test_shared_norms_are_calibrated_and_then_frozen():
    name = "fasterrcnn_resnet50_fpn"
    net = elastic_detector(name, num_classes=3, size=64, norm="shared", constant_norms=False, **options(name))
    x = [torch.rand(3, 96, 96)]
    net.calibrate([(x, None), (x, None)], widths=WIDTHS, batches=2)
    found = net.norms.overrides(net.widths[0.5])
    assert int(found["backbone.body.bn1.num_batches_tracked"]) == 2
    mean = found["backbone.body.bn1.running_mean"].clone()
    assert mean.abs().max() > 0
    net.norms.freeze_()
    net.train()
    net.at(0.5)(x, [{"boxes": torch.tensor([[10.0, 20, 50, 60]]), "labels": torch.tensor([1])}])
    assert torch.equal(net.norms.overrides(net.widths[0.5])["backbone.body.bn1.running_mean"], mean)
    net.calibrate([(x, None)], widths=[0.5], batches=1)  # constants too, as it is asked for
    assert int(net.norms.overrides(net.widths[0.5])["backbone.body.bn1.num_batches_tracked"]) == 1


def test_norms_that_are_frozen_in_the_model_get_a_state_for_every_width():
    name = "fasterrcnn_resnet50_fpn"
    model = detector(name, 3, min_size=64, max_size=64).double()
    with torch.no_grad():
        for m in batch_norms(model).values():
            m.running_mean.uniform_(-0.1, 0.1)
    frozen = detection.FasterRCNN(
        resnet_fpn_backbone(backbone_name="resnet50", weights=None),
        3,
        min_size=64,
        max_size=64,
    ).double()
    frozen.load_state_dict({k: v for k, v in model.state_dict().items() if "tracked" not in k})
    x = [torch.rand(3, 64, 64).double()]
    expected = frozen.eval()(x)[0]
    with pytest.warns(OrdinaryWeightsWarning, match="widths 0.25, 0.5, 0.75 have no batch-norm statistics"):
        net = elastic_detector(frozen, size=64)
    assert_same(net.eval().at(1.0)(x)[0], expected)
    narrow = net.norms.overrides(net.widths[0.5])["backbone.body.bn1.running_mean"]
    assert torch.equal(narrow, net.model.get_buffer("backbone.body.bn1.running_mean")[:32])
    with torch.no_grad():
        assert len(net.at(0.5)(x)) == 1  # slices: it runs, as the warning says


def test_ordinary_weights_are_warned_of_with_frozen_slices_too():
    model = detector("fasterrcnn_resnet50_fpn", 3)
    model.get_buffer("backbone.body.bn1.running_mean").fill_(0.1)
    with pytest.warns(OrdinaryWeightsWarning, match=r"backbone=\.\.\."):
        elastic_detector(model, size=64, norm="frozen")


def test_copies_run_without_this_package(tmp_path):
    net = small("maskrcnn_resnet50_fpn").float()
    copy = net.extract(0.25).eval()
    torch.save(copy, tmp_path / "detector.pt")
    x = images("maskrcnn_resnet50_fpn")[0].float()
    with torch.no_grad():
        expected = copy([x])[0]
    torch.save((x, expected), tmp_path / "case.pt")
    code = f"""
import sys, torch
sys.modules["anywidth"] = None
torch.set_num_threads(1)
model = torch.load(r"{tmp_path}/detector.pt", weights_only=False)
x, expected = torch.load(r"{tmp_path}/case.pt")
with torch.no_grad():
    found = model([x])[0]
assert type(model).__module__.startswith("torchvision"), type(model)
for key in expected:
    torch.testing.assert_close(found[key], expected[key])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_saved_detectors_come_back(tmp_path):
    import anywidth as aw

    name = "fasterrcnn_resnet50_fpn"
    net = small(name)
    net.save(tmp_path / "net.safetensors")
    back = aw.load(tmp_path / "net.safetensors", detector(name, 4, **options(name)).double())
    assert back.norms.constant
    assert list(back.widths) == list(WIDTHS)
    assert_same(detections(back.at(0.25), name), detections(net.at(0.25), name))
    assert not any(m.weight.requires_grad for m in batch_norms(back.model).values())


def test_views_of_a_detector_are_no_larger_when_pickled():
    net = tiny()
    sizes = []
    for w in (0.25, 1.0):
        buffer = io.BytesIO()
        torch.save(net.extract(w).state_dict(), buffer)
        sizes.append(buffer.tell())
    assert sizes[0] < 0.1 * sizes[1]
    assert math.isclose(net.macs(0.25) / net.macs(1.0), 1 / 16, rel_tol=0.2)


def test_unknown_detectors_and_presets_are_named():
    with pytest.raises(
        ValueError, match="unknown detector 'yolo'; known are fasterrcnn_resnet50_fpn, maskrcnn"
    ):
        elastic_detector("yolo")
    with pytest.raises(ValueError, match="preset='slim' is unknown; known are full, reference"):
        elastic_detector("fasterrcnn_resnet50_fpn", preset="slim")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Linear is no detector of torchvision"):
        elastic_detector(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="num_classes and min_size belong to a detector given by its name"):
        elastic_detector(detector("fasterrcnn_resnet50_fpn"), num_classes=3, min_size=64)


def test_impossible_stages_are_named():
    with pytest.raises(ValueError, match="trainable_layers=7: a ResNet has a stem and four stages"):
        tiny(trainable_layers=7)
    with pytest.raises(ValueError, match="backbone of this SSD has no stem"):
        elastic_detector("ssdlite320_mobilenet_v3_large", trainable_layers=3)


def test_no_widths_are_an_error_of_their_own():
    with pytest.raises(WidthError, match="widths is empty: name at least one"):
        elastic_detector("ssdlite320_mobilenet_v3_large", widths=[])
