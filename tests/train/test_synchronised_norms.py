import pytest
import torch
from torch import distributed as dist
from torch import nn

from anywidth.elastic import Elastic
from anywidth.train import synchronised_norms
from anywidth.train.synchronised_norms import synchronised_

X = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def new_net(momentum: float | None = 0.1) -> Elastic:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, momentum=momentum), nn.Conv2d(8, 2, 1)
    ).double()
    return Elastic(model, X, widths=[0.5, 1.0]).train()


@pytest.fixture
def twins(monkeypatch):
    """Two processes with the same images: every sum over processes is twice that of this one."""
    monkeypatch.setattr(synchronised_norms, "world", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda t: t.mul_(2))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_outputs_and_statistics_are_those_of_the_whole_batch(twins, momentum, width):
    net, alone = new_net(momentum), new_net(momentum)
    for scale in (1.0, 3.0):
        with synchronised_(net, True):
            share = net.at(width)(scale * X)
        whole = alone.at(width)(torch.cat([scale * X, scale * X]))
        torch.testing.assert_close(share, whole[:4])
    expected = alone.norm_state() | dict(alone.model.named_buffers())
    for name, t in (net.norm_state() | dict(net.model.named_buffers())).items():
        torch.testing.assert_close(t, expected[name])


def test_gradients_of_inputs_are_those_of_the_whole_batch(twins):
    net, alone = new_net(), new_net()
    share, whole = X.clone().requires_grad_(), torch.cat([X, X]).requires_grad_()
    with synchronised_(net, True):
        net.at(0.5)(share).pow(3).sum().backward()
    alone.at(0.5)(whole).pow(3).sum().backward()
    torch.testing.assert_close(share.grad, whole.grad[:4])


def test_norms_are_ordinary_ones_before_and_after(twins):
    net = new_net()
    parameters = [id(p) for p in net.parameters()]
    with synchronised_(net, True):
        assert type(net.model[1]) is not nn.BatchNorm2d
        assert isinstance(net.at(0.5)[1], type(net.model[1]))
    with pytest.raises(RuntimeError), synchronised_(net, True):
        net(torch.zeros(1))  # a failure
    assert type(net.model[1]) is nn.BatchNorm2d
    assert type(net.model[0]) is nn.Conv2d
    assert [id(p) for p in net.parameters()] == parameters


def test_nothing_changes_in_evaluation(twins):
    net = new_net().eval()
    expected = net(X)
    with synchronised_(net, True):
        assert torch.equal(net(X), expected)


def test_nothing_changes_for_one_process_or_where_it_is_off(monkeypatch):
    net = new_net()
    with synchronised_(net, True):
        assert type(net.model[1]) is nn.BatchNorm2d
    monkeypatch.setattr(synchronised_norms, "world", lambda: 2)
    with synchronised_(net, False):
        assert type(net.model[1]) is nn.BatchNorm2d
