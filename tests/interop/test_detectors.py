"""Files of the reference's detectors, synthetic tensors of exactly their shapes; outputs against a plain torchvision model."""

import re

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import anywidth as aw
from anywidth.errors import CheckpointError
from anywidth.interop import detectors
from anywidth.models.detectors import short_run

WIDTHS = (0.25, 0.5, 0.75, 1.0)
SOURCE = "slimmable_networks-detection"
BLOCKS = (3, 4, 6, 3)


def layout(mask: bool) -> dict[str, tuple[int, ...]]:
    """Every tensor of the published files, written down from their description."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(path: str, channels: int) -> None:
        for k, w in enumerate(WIDTHS):
            for kind in ("weight", "bias", "running_mean", "running_var"):
                found[f"{path}.bn.{k}.{kind}"] = (int(channels * w),)

    found["backbone.conv1.weight"] = (64, 3, 7, 7)
    norm("backbone.bn1", 64)
    before = 64
    for stage, (blocks, base) in enumerate(zip(BLOCKS, (64, 128, 256, 512), strict=True), 1):
        for i in range(blocks):
            path = f"backbone.layer{stage}.{i}"
            shapes = ((base, before, 1, 1), (base, base, 3, 3), (4 * base, base, 1, 1))
            for number, shape in enumerate(shapes, 1):
                found[f"{path}.conv{number}.weight"] = shape
                norm(f"{path}.bn{number}", shape[0])
            if i == 0:
                found[f"{path}.downsample.0.weight"] = (4 * base, before, 1, 1)
                norm(f"{path}.downsample.1", 4 * base)
            before = 4 * base
    for i, channels in enumerate((256, 512, 1024, 2048)):
        found |= layer(f"neck.lateral_convs.{i}.conv", (256, channels, 1, 1))
        found |= layer(f"neck.fpn_convs.{i}.conv", (256, 256, 3, 3))
    found |= layer("rpn_head.rpn_conv", (256, 256, 3, 3)) | layer("rpn_head.rpn_cls", (3, 256, 1, 1))
    found |= layer("rpn_head.rpn_reg", (12, 256, 1, 1))
    found |= layer("bbox_head.shared_fcs.0", (1024, 12544)) | layer("bbox_head.shared_fcs.1", (1024, 1024))
    found |= layer("bbox_head.fc_cls", (81, 1024)) | layer("bbox_head.fc_reg", (324, 1024))
    if mask:
        for i in range(4):
            found |= layer(f"mask_head.convs.{i}.conv", (256, 256, 3, 3))
        found |= layer("mask_head.upsample", (256, 256, 2, 2)) | layer(
            "mask_head.conv_logits", (81, 256, 1, 1)
        )
    return found


def layer(path: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": shape, f"{path}.bias": shape[:1]}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    made = {}
    for name, mask in (("fasterrcnn_resnet50_fpn", False), ("maskrcnn_resnet50_fpn", True)):
        made[name] = state = {}
        for key, shape in layout(mask).items():
            if "running_var" in key or (".bn." in key and key.endswith("weight")):
                state[key] = torch.rand(shape, generator=generator) * 0.4 + 0.6
            elif len(shape) == 1:
                state[key] = torch.randn(shape, generator=generator) * 0.05
            else:
                fan = torch.Size(shape[1:]).numel()
                state[key] = torch.randn(shape, generator=generator) * fan**-0.5
    return made


def plain(name: str, state: dict[str, torch.Tensor], k: int) -> nn.Module:
    """The widest network of torchvision's own classes with the norms of width `k`, which must be the last."""
    kind = detection.MaskRCNN if name.startswith("mask") else detection.FasterRCNN
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    model = kind(backbone, 81, rpn_pre_nms_top_n_test=2000, rpn_post_nms_top_n_test=2000)
    pairs = (
        ("neck.lateral_convs.{}.conv", "backbone.fpn.inner_blocks.{}.0"), ("neck.fpn_convs.{}.conv", "backbone.fpn.layer_blocks.{}.0"),
        ("rpn_head.rpn_conv", "rpn.head.conv.0.0"), ("rpn_head.rpn_cls", "rpn.head.cls_logits"), ("rpn_head.rpn_reg", "rpn.head.bbox_pred"),
        ("bbox_head.shared_fcs.0", "roi_heads.box_head.fc6"), ("bbox_head.shared_fcs.1", "roi_heads.box_head.fc7"),
        ("bbox_head.fc_cls", "roi_heads.box_predictor.cls_score"), ("bbox_head.fc_reg", "roi_heads.box_predictor.bbox_pred"),
        ("mask_head.convs.{}.conv", "roi_heads.mask_head.{}.0"), ("mask_head.upsample", "roi_heads.mask_predictor.conv5_mask"),
        ("mask_head.conv_logits", "roi_heads.mask_predictor.mask_fcn_logits"),
    )  # fmt: skip
    table = {a.format(i): b.format(i) for a, b in pairs for i in range(4)}
    mapped = {}
    for key, t in state.items():
        path, _, kind_ = key.rpartition(".")
        if path.startswith("backbone."):
            norm = re.fullmatch(r"backbone\.(.+)\.bn\.(\d)", path)
            if norm and int(norm[2]) == k:
                mapped[f"backbone.body.{norm[1]}.{kind_}"] = t
            elif not norm:
                mapped[f"backbone.body.{path.removeprefix('backbone.')}.{kind_}"] = t
        else:
            mapped[f"{table[path]}.{kind_}"] = t
    model.load_state_dict(mapped)
    shift = (4, 8, 16, 32, 64)
    cells = model.rpn.anchor_generator.cell_anchors
    model.rpn.anchor_generator.cell_anchors = [c + s / 2 for c, s in zip(cells, shift, strict=True)]
    return model.eval()


@torch.no_grad()
def outputs(model: nn.Module) -> dict[str, torch.Tensor]:
    with short_run(model, (128, 128)):
        model.eval()
        return model([torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(4))])[0]


@pytest.mark.parametrize("name", detectors.MODELS)
def test_every_key_is_taken_and_outputs_are_a_plain_models(name, states, tmp_path):
    wrapped = {f"module.{k}": t for k, t in states[name].items()}
    counters = {
        k.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for k in wrapped if "mean" in k
    }
    meta = {"epoch": 12, "iter": 87960, "mmcv_version": "0.2.0", "time": "Sat Jan 12 2019"}
    torch.save({"meta": meta, "state_dict": {**wrapped, **counters}}, tmp_path / "file.pth")
    net = aw.interop.load(tmp_path / "file.pth", source=SOURCE, model=name, image_size=128)
    assert len(states[name]) == (943 if name.startswith("mask") else 931)
    assert list(net.widths) == list(WIDTHS)
    assert net.norms.constant
    expected = outputs(plain(name, states[name], 3))
    for model in (net.model, net.extract(1.0)):
        found = outputs(model)
        assert found.keys() == expected.keys()
        assert len(found["boxes"]) > 1
        for key, t in expected.items():
            torch.testing.assert_close(found[key], t, rtol=1e-3, atol=1e-3)
    half = net.extract(0.5)
    norm = half.get_submodule("backbone.body.layer2.0.bn2")
    assert torch.equal(norm.running_var, states[name]["backbone.layer2.0.bn2.bn.1.running_var"])
    assert torch.equal(norm.weight, states[name]["backbone.layer2.0.bn2.bn.1.weight"])
    lateral = half.get_submodule("backbone.fpn.inner_blocks.3.0")
    assert torch.equal(lateral.weight, states[name]["neck.lateral_convs.3.conv.weight"][:, :1024])
    assert not net.model.get_parameter("backbone.body.layer1.0.conv1.weight").requires_grad
    assert net.model.get_parameter("backbone.body.layer2.0.conv1.weight").requires_grad
    assert net.model.get_parameter("roi_heads.box_head.fc6.weight").requires_grad


def test_files_that_do_not_fit_are_named(states, tmp_path):
    faster, mask = (  # of their shapes, but a number each
        {k: torch.zeros(()).expand(t.shape) for k, t in states[name].items()}
        for name in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
    )
    path = tmp_path / "file.pth"

    def load(given, model="fasterrcnn_resnet50_fpn", **options):
        torch.save(given, path)
        return aw.interop.load(path, source=SOURCE, model=model, image_size=64, **options)

    with pytest.raises(CheckpointError, match=r"unknown detector .* 'retinanet'.*fasterrcnn_resnet50_fpn"):
        load(faster, "retinanet")
    with pytest.raises(CheckpointError, match=r"12 missing \(mask_head.convs.0.conv.weight"):
        load(faster, "maskrcnn_resnet50_fpn")
    with pytest.raises(CheckpointError, match=r"12 unexpected \(mask_head"):
        load(mask)
    with pytest.raises(
        CheckpointError, match=r"bbox_head.fc_cls.weight is \[91, 1024\] in the file, \[81, 1024\] here"
    ):
        load({**faster, "bbox_head.fc_cls.weight": torch.zeros(91, 1024)})
    with pytest.raises(
        CheckpointError, match="batch norms of 4 widths, expected 2; give the widths of the file"
    ):
        load(faster, widths=[0.5, 1.0])
    with pytest.raises(CheckpointError, match="batch norms of 0 widths, expected 4; an ordinary detector"):
        load({k: t for k, t in faster.items() if ".bn." not in k})
