import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.train.ema import Ema


def new_net() -> Elastic:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
    return Elastic(model, torch.zeros(1, 1, 2, 2).double(), widths=[0.5, 1.0])


IMAGES = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_average_moves_by_the_formula():
    net = new_net()
    ema, average = Ema(net, 0.8), net.model[0].weight.detach().clone()
    for value in (1.0, 3.0):
        nn.init.constant_(net.model[0].weight, value)
        ema.update_(net)
        average = 0.8 * average + 0.2 * value
    torch.testing.assert_close(ema.net.model[0].weight.detach(), average)


def test_statistics_of_listed_widths_are_averaged_and_counters_copied():
    net = new_net().train()
    ema = Ema(net, 0.5)
    for width in (0.5, 1.0):
        net.at(width)(IMAGES)
    ema.update_(net)
    averaged, current = ema.net.norm_state(), net.norm_state()
    (mean,) = [name for name in current if name.endswith("running_mean")]
    (count,) = [name for name in current if name.endswith("num_batches_tracked")]
    torch.testing.assert_close(averaged[mean], current[mean] / 2)  # they begin at zero
    assert int(averaged[count]) == int(current[count]) == 1
    torch.testing.assert_close(ema.net.model[1].running_mean, net.model[1].running_mean / 2)


def test_it_is_a_network_of_its_own_that_does_not_learn():
    net = new_net()
    ema = Ema(net, 0.5)
    assert not any(p.requires_grad for p in ema.net.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert not ema.net.training
    nn.init.zeros_(net.model[2].weight)
    assert ema.net.model[2].weight.any()


def test_it_answers_at_widths_whose_statistics_it_averages():
    net = new_net().train()
    net.at(0.5)(IMAGES)
    ema = Ema(net, 0.5)
    torch.testing.assert_close(ema.logits(IMAGES), net.eval()(IMAGES))
    torch.testing.assert_close(ema.logits(IMAGES, 0.5), net.at(0.5)(IMAGES))
    with pytest.raises(WidthError, match=r"no batch-norm statistics at width 0.75, which is not listed"):
        ema.logits(IMAGES, 0.75)
