import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from anywidth.compat.torchvision import proposal_settings


def test_the_settings_are_attributes_that_proposal_networks_have():
    detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    counts = {"training": 7, "testing": 5}
    for name, value in proposal_settings(counts).items():
        assert vars(detector.rpn)[name].keys() == counts.keys(), f"'{name}' is no setting of torchvision's"
        vars(detector.rpn)[name] = value


def test_a_proposal_network_keeps_as_many_as_the_settings_say():
    detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
    vars(detector.rpn).update(proposal_settings({"training": 7, "testing": 5}), score_thresh=0.0)
    proposals = []
    detector.rpn.register_forward_hook(lambda module, args, out: proposals.extend(out[0]))
    with torch.no_grad():
        detector([torch.rand(3, 64, 64)])
    assert 1 <= len(proposals[0]) <= 5
