import pytest

from anywidth.errors import WidthError
from anywidth.interop.slimmable_networks import LISTS, channels_to_width, new


def test_lists_become_widths():
    net = new("autoslim_mobilenet_v2", image_size=64)
    for label, flat in zip((1, 2, 3), LISTS["autoslim_mobilenet_v2"], strict=True):
        view = net.at(label)
        assert view.features[0][0].out_channels == flat[0]
        assert view.features[17].body[0].out_channels == flat[32]
        assert view.features[18][0].out_channels == flat[34]
        assert net.width(label) == channels_to_width(net, "autoslim_mobilenet_v2", flat)


def test_own_lists(tmp_path):
    small = [c // 2 for c in LISTS["autoslim_mobilenet_v1"][0][:-1]]
    net = new("autoslim_mobilenet_v1", [small, LISTS["autoslim_mobilenet_v1"][0]], image_size=64)
    assert list(net.space.channels(net.width(1)).values()) == small


def test_lists_that_an_addition_contradicts():
    flat = list(LISTS["autoslim_mobilenet_v2"][0])
    net = new("autoslim_mobilenet_v2", image_size=64)
    flat[5] += 8  # the output of block 3, which is added to that of block 2
    with pytest.raises(WidthError, match=r"features\.3\.body\.6 and features\.2\.body\.6 are added"):
        channels_to_width(net, "autoslim_mobilenet_v2", flat)
