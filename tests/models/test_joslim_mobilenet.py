from anywidth.interop.joslim import decode
from joslim_nets import published


def test_parts_that_no_vector_narrows_stay():
    net = published("slim_mobilenetv3_small")
    small = net.extract(decode(net, [0.5] * 16))
    assert small.features[8].out_channels == 1280
    assert small.features[6].conv.out_channels == 576
    assert small.features[3].head.conv[5].fc[0].out_channels == 96 // 4
    assert small.features[3].head.conv[5].fc[0].in_channels == 48
