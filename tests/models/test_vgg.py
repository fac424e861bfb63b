import pytest
import torch
from torch import nn

from anywidth.models import VGGA, CifarVGG
from slimming_counts import sizes
from slimming_tables import TABLE_5, VGG_A


def test_sizes_of_vgg_a():
    assert sizes(VGGA, image_size=224) == VGG_A


def test_the_compact_network_of_the_papers_table_5():
    assert sizes(CifarVGG, channels=TABLE_5) == (885_934, 90_662_204)
    assert sizes(CifarVGG, channels=[c for c in TABLE_5 if c != "M"]) == (885_934, 90_662_204)


@pytest.mark.parametrize("size", [32, 64, 75])
def test_vgg_a_is_made_for_a_size(size):
    channels = [4, 5, "M", 6, 7, "M", 8, 9, "M", 3, 4, "M", 11, 12]
    with pytest.raises(ValueError, match=r"VGGA: the pools of .* are not at the places"):
        VGGA(5, size, channels)
    net = VGGA(5, size, [c for c in channels if c != "M"]).eval()
    assert net(torch.rand(2, 3, size, size)).shape == (2, 5)
    assert [m.out_features for m in net.classifier if isinstance(m, nn.Linear)] == [11, 12, 5]
    with pytest.raises(RuntimeError):
        net(torch.rand(2, 3, size + 32, size + 32))
    with pytest.raises(ValueError, match="VGGA: image_size 31: five pools need at least 32 pixels"):
        VGGA(image_size=31)
