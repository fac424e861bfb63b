import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import anywidth as aw
from anywidth.interop import detectors
from anywidth.models.detectors import short_run


def test_anchors_stand_in_the_middle_of_cells_and_go_with_copies():
    model = detectors.reference_detector("fasterrcnn_resnet50_fpn")
    ordinary = detection.FasterRCNN(resnet_fpn_backbone(backbone_name="resnet50", weights=None), 81)
    for stride, a, b in zip((4, 8, 16, 32, 64), model.rpn.anchor_generator.cell_anchors, ordinary.rpn.anchor_generator.cell_anchors, strict=True):  # fmt: skip
        assert torch.equal(a, b + stride / 2)
        centre = (a[:, :2] + a[:, 2:]) / 2
        assert torch.equal(centre, torch.full_like(centre, stride / 2))
    assert model.rpn.pre_nms_top_n() == 2000
    assert model.eval().rpn.post_nms_top_n() == 2000
    assert model.transform.size_divisible == 64
    with short_run(model, (64, 64)):
        net = aw.Elastic(model, ([torch.rand(3, 64, 64)],), norm="frozen", widths=[0.5])
    copy = net.extract(0.5)
    assert torch.equal(copy.rpn.anchor_generator.cell_anchors[2], model.rpn.anchor_generator.cell_anchors[2])
