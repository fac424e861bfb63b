"""The step of a detector over all widths, against its own losses run by hand."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import RoIHeads

from anywidth.detect import DetectionLoss
from anywidth.train.step import Pass
from detector_cases import TIGHT, images, small, targets

WIDTHS = (1.0, 0.5, 0.25)


def gradients(net):
    found = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    for p in net.parameters():
        p.grad = None
    return found


def by_hand(net, batch, weight=1.0):
    """Sum over widths of the detector's own losses."""
    torch.manual_seed(0)
    losses = []
    for width in WIDTHS:
        loss = sum(net.at(width)(*batch).values())
        (weight * loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses), gradients(net)


@pytest.fixture(scope="module", params=["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def case(request):
    net = small(request.param).train()
    return net, (images(request.param), targets(request.param))


@pytest.mark.parametrize(("reduction", "weight"), [("sum", 1.0), ("mean", 1 / 3)])
def test_losses_and_gradients_are_summed(case, reduction, weight):
    net, batch = case
    expected, wanted = by_hand(net, batch, weight)
    torch.manual_seed(0)
    found = DetectionLoss(reduction=reduction)(net, batch, WIDTHS, Pass())
    assert_close(found, expected, **TIGHT)
    got = gradients(net)
    assert got.keys() == wanted.keys()
    for name, g in wanted.items():
        assert_close(got[name], g, **TIGHT, msg=lambda m, n=name: f"{n}: {m}")


def test_features_are_distilled(case):
    net, batch = case
    seen = []
    for width in WIDTHS:
        hook = net.at(width).backbone.register_forward_hook(lambda m, a, out: seen.append(list(out.values())))
        torch.manual_seed(0)
        sum(net.at(width)(*batch).values()).detach()
        hook.remove()
    plain, _ = by_hand(net, batch)
    torch.manual_seed(0)
    found = DetectionLoss(distill=0.5)(net, batch, WIDTHS, Pass())
    for index, features in enumerate(seen):
        levels = [((a - b[:, : a.shape[1]]) ** 2).mean() for a, b in zip(features, seen[0], strict=True)]
        extra = 0.5 * sum(levels) / len(levels)
        assert_close(found[index] - plain[index], extra.detach(), rtol=1e-6, atol=1e-9)
    assert found[1] > plain[1]
    gradients(net)


def test_narrow_heads_may_learn_from_the_regions_of_the_widest(monkeypatch):
    net = small("fasterrcnn_resnet50_fpn").train()
    batch = (images("fasterrcnn_resnet50_fpn"), targets("fasterrcnn_resnet50_fpn"))
    given: list[list[torch.Tensor]] = []
    real = RoIHeads.forward

    def forward(self, features, proposals, *rest):
        given.append([p.clone() for p in proposals])
        return real(self, features, proposals, *rest)

    monkeypatch.setattr(RoIHeads, "forward", forward)
    DetectionLoss(proposals="widest")(net, batch, WIDTHS, Pass())
    DetectionLoss(proposals="own")(net, batch, WIDTHS, Pass())
    shared, own = given[:3], given[3:]
    for narrow in shared[1:]:
        assert_close(narrow, shared[0], rtol=0, atol=0)
    assert_close(own[0], shared[0])
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(own[0], own[2], strict=True))
    assert not net.at(0.25).rpn._forward_hooks
    gradients(net)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="proposals = 'all': expected 'own' or 'widest'"):
        DetectionLoss(proposals="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"distill = -1"):
        DetectionLoss(distill=-1)
    net = small("retinanet_resnet50_fpn")
    with pytest.raises(ValueError, match="RetinaNet has no region proposal network; use 'own'"):
        DetectionLoss(proposals="widest").check(net)


def test_distilled_are_the_channels_that_both_have():
    name = "retinanet_resnet50_fpn"
    net = small(name, widths=[0.5, 1.0], parts={"neck": [1.0, 0.5]}).train()
    batch = images(name), targets(name)
    found = DetectionLoss(distill=0.5)(net, batch, (1.0, 0.5), Pass())
    seen = [net.at(w).backbone(net.model.transform(*batch)[0].tensors) for w in (1.0, 0.5)]
    levels = [(a[:, :128] - b).square().mean() for b, a in zip(*(f.values() for f in seen), strict=True)]
    alone = sum(net.at(0.5)(*batch).values())
    assert_close(found[1], (alone + 0.5 * sum(levels) / len(levels)).detach(), **TIGHT)
