from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anywidth.detect.evaluate import detections, kinds_of, objects
from anywidth.elastic import Elastic
from anywidth.errors import StatisticsError


class OneBox(nn.Module):
    """Finds in every image a box as wide as the layer has channels, and one of the background."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def forward(self, images):
        channels = self.norm(self.first(torch.stack(images))).shape[1]
        self.last(torch.zeros(1, channels, 1, 1))
        box = torch.tensor([[1.0, 2.0, 1.0 + channels, 4.0], [0.0, 0.0, 1.0, 1.0]])
        return [
            {"boxes": box, "labels": torch.tensor([2, 0]), "scores": torch.tensor([0.75, 0.5])}
            for _ in images
        ]


def batches():
    for first in (10, 12):
        yield [torch.zeros(3, 4, 4)] * 2, [{"image_id": torch.tensor(first + i)} for i in range(2)]


@pytest.fixture
def net() -> Elastic:
    return Elastic(OneBox(), ([torch.zeros(3, 4, 4)],), norm="frozen").train()


def test_every_width_finds_its_own_in_one_pass(net):
    done = []
    narrow, wide = detections(net, batches(), [0.5, 1.0], raw_ids=[5, 9], report=done.append)
    assert [result["image_id"] for result in narrow] == [10, 11, 12, 13]
    assert {result["category_id"] for result in [*narrow, *wide]} == {9}
    assert {tuple(result["bbox"]) for result in narrow} == {(1, 2, 4, 2)}
    assert {tuple(result["bbox"]) for result in wide} == {(1, 2, 8, 2)}
    assert done == [2, 4]
    assert net.training


def test_classes_to_spare_are_left_out_where_that_is_asked_for(net):
    assert detections(net, batches(), [1.0], raw_ids=[5], spare=True) == [[]]
    with pytest.raises(ValueError, match="labels from 2 to 2, but the data set has 1 classes"):
        detections(net, batches(), [1.0], raw_ids=[5])
    assert net.training


def test_a_width_without_statistics_is_refused():
    net = Elastic(OneBox(), ([torch.zeros(3, 4, 4)],))
    with pytest.raises(StatisticsError, match=r"width 0.5 has no batch-norm statistics"):
        detections(net, batches(), [0.5], raw_ids=[5, 9])


def test_the_background_and_labels_above_the_classes_are_no_objects():
    output = {"labels": torch.tensor([0, 1, 2, 3]), "scores": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    (every,), (two,) = objects([output]), objects([output], classes=2)
    assert every["labels"].tolist() == [1, 2, 3]
    assert (two["labels"].tolist(), two["scores"].tolist()) == ([1, 2], pytest.approx([0.2, 0.3]))


def test_kinds_are_those_of_the_heads():
    def with_heads(**heads):
        return SimpleNamespace(roi_heads=SimpleNamespace(**heads))

    assert kinds_of(SimpleNamespace()) == ("bbox",)
    assert kinds_of(with_heads(mask_head=1, keypoint_head=None)) == ("bbox", "segm")
    assert kinds_of(with_heads(mask_head=None, keypoint_head=1)) == ("bbox", "keypoints")
