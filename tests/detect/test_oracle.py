"""A tiny Mask R-CNN against compact ones built by hand, in float64; padding against slicing; gradients of four widths."""

from collections import OrderedDict
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from anywidth.detect import elastic_detector
from anywidth.detect.detector_config import Preset
from detector_cases import WIDTHS, assert_same, detections, images, losses, shaken_, small, total
from oracles import assert_same_grads, expected_grads, fill_

NAME = "maskrcnn"  # images and targets of 96 pixels
BODY, NECK, HEAD, HIDDEN = (8, 16, 24, 32), 16, 24, 40


def body(channels) -> nn.Sequential:
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for i, c in enumerate(channels, 1):
        stages[f"layer{i}"] = nn.Sequential(
            nn.Conv2d(before, c, 3, 4 if i == 1 else 2, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU()
        )
        before = c
    return nn.Sequential(stages)


def tiny(share: float = 1.0, *, neck: float | None = None, heads: float | None = None) -> MaskRCNN:
    """The same architecture, built with so many channels."""
    n = int(NECK * (share if neck is None else neck))
    h, hidden = (int(c * (share if heads is None else heads)) for c in (HEAD, HIDDEN))
    channels = [int(c * share) for c in BODY]
    backbone = BackboneWithFPN(body(channels), {f"layer{i}": str(i - 1) for i in range(1, 5)}, channels, n)
    rpn_head = RPNHead(n, 3)
    rpn_head.conv = nn.Sequential(nn.Sequential(nn.Conv2d(n, h, 3, padding=1), nn.ReLU()))
    rpn_head.cls_logits, rpn_head.bbox_pred = nn.Conv2d(h, 3, 1), nn.Conv2d(h, 12, 1)
    counts = {f"rpn_{when}_nms_top_n_{mode}": 12 for when in ("pre", "post") for mode in ("train", "test")}
    return MaskRCNN(
        backbone,
        min_size=96,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (48,), (64,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_head=rpn_head,
        box_head=TwoMLPHead(n * 49, hidden),
        box_predictor=FastRCNNPredictor(hidden, 3),
        mask_head=MaskRCNNHeads(n, (h, h), 1),
        mask_predictor=MaskRCNNPredictor(h, h, 3),
        box_batch_size_per_image=12,
        rpn_batch_size_per_image=32,
        box_detections_per_img=4,
        box_score_thresh=0.0,
        **counts,
    ).double()


def compact(net, w, **shares) -> MaskRCNN:
    """Hand-sliced: the leading block of every tensor, and the norms of the width by name."""
    made = fill_(tiny(w, **shares), net.model, {})
    norms = net.norms.overrides(net.widths[w])
    made.load_state_dict({**made.state_dict(), **norms})
    for m in made.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.requires_grad_(False).eval()
    made.train = lambda mode=True: _train_but_norms(made, mode)  # type: ignore[method-assign]
    return made


def _train_but_norms(model: nn.Module, mode: bool) -> nn.Module:
    for m in model.modules():
        m.training = mode and not isinstance(m, nn.BatchNorm2d)
    return model


@cache
def elastic(preset: Preset):
    torch.manual_seed(0)
    return shaken_(elastic_detector(tiny(), preset=preset, size=96))


SHARES: dict[Preset, dict[str, float]] = {"full": {}, "reference": {"neck": 1.0, "heads": 1.0}}


@pytest.mark.parametrize("preset", SHARES)
@pytest.mark.parametrize("w", WIDTHS)
def test_losses_boxes_and_gradients_are_those_of_a_compact_detector(preset, w):
    net = elastic(preset)
    by_hand = compact(net, w, **SHARES[preset])
    net.train()
    net.zero_grad()
    by_hand.zero_grad()
    mine, theirs = losses(net.at(w), NAME), losses(by_hand, NAME)
    assert_same(mine, theirs)
    total(mine).backward()
    total(theirs).backward()
    assert_same_grads(net.model, expected_grads(net.model, by_hand, {}))
    net.eval()
    assert_same(detections(net.at(w), NAME), detections(by_hand, NAME))


def test_the_oracle_notices_norms_of_another_width():
    net = elastic("full")
    by_hand = compact(net, 0.5)
    norms = net.norms.overrides(net.widths[0.5])
    by_hand.load_state_dict({**by_hand.state_dict(), **{n: t * 1.01 for n, t in norms.items() if "var" in n}})
    with pytest.raises(AssertionError, match="loss"):
        assert_same(losses(net.at(0.5), NAME), losses(by_hand, NAME))


@pytest.mark.parametrize("preset", SHARES)
def test_a_step_of_four_widths_is_the_sum_of_four_compact_detectors(preset):
    net = elastic(preset)
    net.train()
    net.zero_grad()
    expected: dict[str, torch.Tensor] = {}
    for w in WIDTHS:
        total(losses(net.at(w), NAME)).backward()
        by_hand = compact(net, w, **SHARES[preset])
        total(losses(by_hand, NAME)).backward()
        for name, g in expected_grads(net.model, by_hand, {}).items():
            expected[name] = expected.get(name, 0) + g
    assert_same_grads(net.model, expected)


@pytest.mark.parametrize("preset", SHARES)
@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"]
)
def test_gradients_are_finite_and_exactly_zero_outside_the_prefix(name, preset):
    net = small(name, preset=preset)
    net.train()
    for w in (0.25, 0.75):
        net.zero_grad()
        total(losses(net.at(w), name)).backward()
        narrow = dict(net.extract(w).named_parameters())
        touched = 0
        for path, p in net.model.named_parameters():
            if p.grad is None:
                continue
            assert torch.isfinite(p.grad).all(), path
            outside = torch.ones_like(p, dtype=torch.bool)
            if path in narrow:
                outside[tuple(slice(0, n) for n in narrow[path].shape)] = False
            assert (p.grad[outside] == 0).all(), path
            touched += bool(outside.any())
        assert touched > 10


def test_padding_the_features_is_slicing_the_laterals():
    """As the reference does it: zeros after the channels of C2..C5, and laterals that read all."""
    net = small("fasterrcnn_resnet50_fpn", preset="reference").eval()
    x = images("fasterrcnn_resnet50_fpn")[0][None]
    fpn = net.model.get_submodule("backbone.fpn")
    with torch.no_grad():
        for w in WIDTHS[:-1]:
            view = net.at(w)
            features = view.get_submodule("backbone.body")(x)
            sliced = net.extract(w).get_submodule("backbone.fpn")(features)
            full = [
                c.in_channels for c in fpn.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (1, 1)
            ]
            padded = OrderedDict(
                (key, F.pad(t, (0, 0, 0, 0, 0, n - t.shape[1])))
                for (key, t), n in zip(features.items(), full, strict=True)
            )
            for key, t in fpn(padded).items():
                assert_close(sliced[key], t, rtol=0, atol=1e-6 * t.abs().mean().item())
            wrong = fpn(OrderedDict((key, t.roll(1, 1)) for key, t in padded.items()))
            assert (sliced["0"] - wrong["0"]).abs().mean() > 1e-3 * sliced["0"].abs().mean()
