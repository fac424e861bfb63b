import pytest

from anywidth.detect import elastic_detector, groups_of, list_parts_, part_of, part_width
from anywidth.errors import WidthError
from anywidth.space.channel_space import ChannelSpace
from detector_cases import assert_same, detections, small

NAME = "fasterrcnn_resnet50_fpn"


@pytest.fixture(scope="module")
def net():
    return elastic_detector(NAME, num_classes=3, size=64)


def test_parts_follow_the_paths_of_modules():
    paths = ("backbone.body.layer1.0.conv1", "backbone.fpn.inner_blocks.0.0", "backbone.extra.0.0.0", "rpn.head.conv.0.0", "head.x", "backbone.features.0")  # fmt: skip
    assert [part_of(p) for p in paths] == ["backbone", "neck", "neck", "heads", "heads", "backbone"]


def test_groups_are_parted_without_rest(net):
    groups = groups_of(net.space)
    assert sorted(n for names in groups.values() for n in names) == sorted(net.space.names)
    assert {p: len(n) for p, n in groups.items()} == {"backbone": 37, "neck": 2, "heads": 3}


def test_part_width_of_each_part(net):
    w = part_width(net, backbone=0.25, neck=0.5, heads=0.75)
    assert (w["backbone.body.conv1"], w["backbone.fpn.layer_blocks.3.0"], w["roi_heads.box_head.fc7"]) == (
        16,
        128,
        768,
    )
    assert part_width(net.space) == net.space.full
    assert isinstance(net.space, ChannelSpace)
    with pytest.raises(WidthError, match="unknown part of a detector 'body'"):
        part_width(net, body=0.5)


def test_widths_listed_later_have_the_norms_of_their_backbone():
    net = small(NAME)
    list_parts_(net, "slim neck", backbone=0.5, neck=0.25, heads=0.25)
    list_parts_(net, "full backbone", neck=0.5)
    mine, twin = (net.norms.overrides(net.widths[label]) for label in ("slim neck", 0.5))
    assert mine.keys() == twin.keys()
    assert all((mine[n] == twin[n]).all() for n in mine)
    wide = net.norms.overrides(net.widths["full backbone"])
    own = dict(net.model.named_parameters()) | dict(net.model.named_buffers())
    assert all((t == own[n]).all() for n, t in wide.items())
    for label in ("slim neck", "full backbone"):
        assert_same(detections(net.eval().at(label), NAME), detections(net.extract(label), NAME))


def test_a_backbone_without_norms_of_its_own_stays_an_error():
    net = elastic_detector(NAME, num_classes=3, size=64, constant_norms=False)
    list_parts_(net, "odd", backbone=0.3)
    assert not net.has_statistics("odd")


def tiny(**arguments):
    return elastic_detector(NAME, num_classes=3, size=64, **arguments)


def test_parts_that_do_not_exist_are_named():
    with pytest.raises(WidthError, match="unknown part of a detector 'head'; did you mean 'heads'"):
        tiny(parts={"head": 0.5})
    with pytest.raises(
        WidthError, match=r"no elastic channels of its own in its heads \(it has in: backbone, neck\)"
    ):
        elastic_detector("ssdlite320_mobilenet_v3_large", parts={"heads": 0.5})
    with pytest.raises(WidthError, match="'neck' has 2 shares for 4 widths"):
        tiny(parts={"neck": [0.5, 1.0]})
    with pytest.raises(WidthError, match="'neck' has shares of 1, but the widths are"):
        tiny(parts={"neck": {1: 0.5}})
    with pytest.raises(WidthError, match="'neck' = 'all'; give a share"):
        tiny(parts={"neck": "all"})
    with pytest.raises(WidthError, match="give a dict of part -> share"):
        tiny(parts=[1.0])
    with pytest.raises(WidthError, match="nothing is elastic"):
        tiny(parts={"backbone": 1.0, "neck": 1.0, "heads": 1.0})
    with pytest.raises(WidthError, match=r"width multiplier 1.5 is outside \(0, 1\]"):
        tiny(parts={"backbone": 1.5})


def test_shares_of_parts():
    net = tiny(
        parts={"backbone": [0.25, 0.5], "neck": {"s": 0.5, "l": 1.0}, "heads": 0.75},
        widths={"s": 0.25, "l": 1.0},
    )
    found = {label: dict(w) for label, w in net.widths.items()}
    names = ("backbone.body.conv1", "backbone.fpn.inner_blocks.3.0", "roi_heads.box_head.fc6")
    assert [[found[label][n] for n in names] for label in ("s", "l")] == [[16, 128, 768], [32, 256, 768]]
