import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.train.at_width import AtWidth


def wrapped() -> AtWidth:
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.0), nn.Linear(8, 2))
    return AtWidth(Elastic(model, torch.zeros(1, 3), widths={"small": 0.25, 1.0: 1.0}))


def test_a_call_runs_the_network_at_the_width_that_it_names():
    net, x = wrapped(), torch.randn(4, 3)
    for width in (0.5, "small", net.net.space.uniform(0.75)):
        torch.testing.assert_close(net(width, x), net.net.extract(width)(x))


def test_arguments_go_to_the_models_forward():
    class Scaled(nn.Linear):
        def forward(self, input, *, scale=1.0):
            return scale * super().forward(input)

    net, x = AtWidth(Elastic(Scaled(3, 2), torch.zeros(1, 3))), torch.randn(4, 3)
    torch.testing.assert_close(net(1.0, x, scale=3.0), 3 * net(1.0, input=x))


def test_parameters_are_those_of_the_network():
    net = wrapped()
    assert [id(p) for p in net.parameters()] == [id(p) for p in net.net.model.parameters()]
    net("small", torch.ones(1, 3)).sum().backward()
    assert net.net.model[0].weight.grad[:2].any()
    assert not net.net.model[0].weight.grad[2:].any()
