"""Small detectors with numbers of their own at every width, images with objects, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from anywidth import Elastic
from anywidth.detect import DETECTORS, elastic_detector
from anywidth.norms.bank import batch_norms

RCNN = tuple(name for name in DETECTORS if "rcnn" in name)
WIDTHS = (0.25, 0.5, 0.75, 1.0)
SIZE = 96
TIGHT = {"rtol": 1e-8, "atol": 1e-9}
LOOSE = {"rtol": 1e-4, "atol": 2e-4}  # boxes are in pixels
_PREDICTORS = {"bbox": 0.01, "regression_head.module_list": 0.01, "lowres": 0.1, "fcn_logits": 0.1, "cls": 0.1, "ctrness": 0.1, "classification_head.module_list": 0.1}  # fmt: skip


def options(name: str) -> dict[str, Any]:
    """Arguments that keep a detector of this name quick on small images."""
    if name.startswith("ssd"):
        return {"topk_candidates": 10, "detections_per_img": 8, "score_thresh": 0.0}
    found: dict[str, Any] = {"min_size": SIZE, "max_size": SIZE}
    if name not in RCNN:
        return {**found, "topk_candidates": 10, "detections_per_img": 8, "score_thresh": 0.0}
    counts = {f"rpn_{when}_nms_top_n_{mode}": 16 for when in ("pre", "post") for mode in ("train", "test")}
    few = name.startswith("keypoint")  # whose head costs 3.5 G multiply-adds for one region
    return {
        **found,
        **counts,
        "box_batch_size_per_image": 4 if few else 12,
        "rpn_batch_size_per_image": 32,
        "box_detections_per_img": 1 if few else 4,
        "box_score_thresh": 0.0,
    }


def size_of(name: str) -> int:
    return 320 if name.startswith("ssd") else SIZE


def small(name: str, *, classes: int = 4, dtype: torch.dtype = torch.float64, **arguments: Any) -> Elastic:
    """An elastic detector whose norms differ between widths."""
    classes = 2 if name.startswith("keypoint") else classes
    net = elastic_detector(name, num_classes=classes, size=size_of(name), **{**options(name), **arguments})
    return shaken_(net.to(dtype))


@torch.no_grad()
def shaken_(net: Elastic, seed: int = 0) -> Elastic:
    """Norms of every width away from their neutral values, so that no width can pass for another; heads that see something."""
    generator = torch.Generator().manual_seed(seed)

    def random(t: Tensor, low: float, high: float) -> None:
        t.copy_(torch.rand(t.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    wide = {
        f"{p}.{n}": t
        for p, m in batch_norms(net.model).items()
        for n, t in m.state_dict(keep_vars=True).items()
    }
    for state in (wide, *(net.norms.overrides(w) for w in net.widths.values())):
        for name, t in state.items():
            if name.endswith("num_batches_tracked"):
                t.fill_(3)
            elif name.endswith(("weight", "running_var")):
                random(t, 0.5, 1.0) if name.endswith("weight") else random(t, 0.7, 1.3)
            else:
                random(t, -0.2, 0.2)
    for name, p in net.model.named_parameters():
        if p.ndim > 1 and not name.startswith(
            ("backbone.body", "backbone.features")
        ):  # torchvision's are next to zero
            fan = p[0].numel() if "conv5_mask" not in name and "lowres" not in name else p.shape[0] * 4
            scale = next((s for word, s in _PREDICTORS.items() if word in name), 0.7)
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale * (2 / fan) ** 0.5)
    net.drop_views_()
    if hasattr(net.model, "backbone"):
        for w in net.widths:
            _measured_(net.at(w).get_submodule("backbone"), generator)
    net.drop_views_()  # their norms were left in evaluation mode
    return net


def _measured_(backbone: nn.Module, generator: torch.Generator) -> None:
    """Statistics of two images, so that features depend on the image at every depth."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.training, m.momentum = True, None
    backbone(
        torch.rand(2, 3, 128, 128, generator=generator, dtype=torch.float64).to(next(backbone.parameters()))
    )
    for m, momentum in zip(norms, momenta, strict=True):
        m.training, m.momentum = False, momentum


def images(name: str, count: int = 1) -> list[Tensor]:
    side = size_of(name)
    return [
        torch.rand(3, side, side, generator=torch.Generator().manual_seed(5 + i), dtype=torch.float64)
        for i in range(count)
    ]


def targets(name: str, count: int = 1) -> list[dict[str, Tensor]]:
    """Two objects per image, of everything that any of the detectors learns from."""
    side = size_of(name)
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.4, 0.3, 0.9, 0.95]], dtype=torch.float64) * side
    masks = torch.zeros(2, side, side, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    steps = torch.linspace(-0.2, 0.2, 17, dtype=torch.float64)[None, :, None] * side
    keypoints = torch.cat([centres + steps, torch.ones(2, 17, 1, dtype=torch.float64)], 2)
    one = {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks, "keypoints": keypoints.float()}
    return [one] * count


def losses(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Training losses; regions are sampled with the same random numbers at every call."""
    model.train()
    torch.manual_seed(11)
    count = 2 if name.startswith("ssd") else 1  # norms that learn need more than one value per channel
    like = next(model.parameters())
    x = [image.to(like) for image in images(name, count)]
    y = [
        {k: t.to(like) if t.dtype == torch.float64 else t for k, t in one.items()}
        for one in targets(name, count)
    ]
    found = model(x, y)
    assert all(torch.isfinite(t) and t > 0 for t in found.values()), found
    return found


def total(found: Mapping[str, Tensor]) -> Tensor:
    """The sum of all losses."""
    return torch.stack(list(found.values())).sum()


@torch.no_grad()
def detections(model: nn.Module, name: str) -> dict[str, Tensor]:
    model.eval()
    found = model([image.to(next(model.parameters())) for image in images(name)])[0]
    assert len(found["boxes"]) > 0
    return found


@torch.no_grad()
def detections_of_nothing(model: nn.Module, name: str) -> dict[str, Tensor]:
    """What it sees in a grey image."""
    model.eval()
    return model([torch.full_like(image, 0.5).to(next(model.parameters())) for image in images(name)])[0]


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert len(a) > 0
    for key in a:
        allowed = LOOSE if a[key].dtype == torch.float32 else TIGHT
        assert_close(a[key], b[key], **allowed, msg=lambda text, key=key: f"{key}: {text}")
