import torch
from torch import nn

from anywidth import Elastic
from live_views import X, mlp, same
from oracles import rand, randomized


def test_attributes_are_the_wide_networks_current_ones():
    net = mlp()
    old = net.at(0.5)
    old(X)
    net.model[1].p = 0.0
    assert old[1].p == net.at(0.25)[1].p == 0.0
    assert net.at(0.5) is old
    same(net)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    net = Elastic(randomized(model), rand(2, 3, 4, 4), widths=[0.5])
    net.calibrate([rand(8, 3, 4, 4)])
    view = net.eval().at(0.5)
    x, before = rand(2, 3, 4, 4), view(rand(2, 3, 4, 4))
    net.model[1].eps = 0.5
    assert not torch.allclose(view(x), before)
    same(net, x, widths=[0.5])
