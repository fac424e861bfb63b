"""Elastic detectors on `torchvision.models.detection`."""

from anywidth.detect.backbone import BackboneReport, load_backbone_
from anywidth.detect.build import elastic_detector
from anywidth.detect.detector_config import DetectorConfig
from anywidth.detect.evaluate import detections, kinds_of
from anywidth.detect.loss import DetectionLoss
from anywidth.detect.parts import PARTS, groups_of, list_parts_, part_of, part_width
from anywidth.models.detectors import DETECTORS

__all__ = [
    "DETECTORS",
    "PARTS",
    "BackboneReport",
    "DetectionLoss",
    "DetectorConfig",
    "detections",
    "elastic_detector",
    "groups_of",
    "kinds_of",
    "list_parts_",
    "load_backbone_",
    "part_of",
    "part_width",
]
