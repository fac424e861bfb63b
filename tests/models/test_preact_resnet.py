import pytest
from torch import nn

from anywidth.channel_select import selects
from anywidth.models import PreActResNet
from slimming_counts import macs, params
from slimming_tables import SIZES


def test_the_counter_sees_what_is_wrong():
    table = SIZES["resnet20"][2]
    wrong = PreActResNet(20)
    wrong.features.stage2[0].conv2.stride = (1, 1)
    wrong.features.stage2[0].shortcut.stride = (1, 1)
    assert (params(wrong), macs(wrong)) == (table[0], pytest.approx(table[1], rel=2))
    assert macs(wrong) != table[1]
    wrong = PreActResNet(20)
    wrong.features.stage1[0].conv1 = nn.Conv2d(16, 16, 1)
    assert params(wrong) == table[0] + 16
    wrong = nn.Sequential(nn.Conv1d(3, 3, 1))
    with pytest.raises(AssertionError):
        macs(nn.Sequential(nn.Flatten(2), *wrong))


PreActChannels = [64, 32, 32, 128, 32, 32, 128, 64, 64, 256, 64, 64, 256]


def test_where_fewer_channels_are_read_than_there_are():
    channels = [16, 3, 4, 20, 16, 16, *PreActChannels[:-1], 100]
    net = PreActResNet(20, channels=channels)
    found = {n: m for n, m in net.named_modules() if selects(m)}
    assert {n: (m.num_features, m.index.tolist()) for n, m in found.items()} == {
        "features.stage1.1.bn1": (64, list(range(20))),
        "features.norm": (256, list(range(100))),
    }
    made = [m.out_channels for m in net.features.stage1[0].modules() if isinstance(m, nn.Conv2d)]
    assert made == [3, 4, 64, 64]
