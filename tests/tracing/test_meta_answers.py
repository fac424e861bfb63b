"""Models on `meta`: traced, counted, viewed and copied without a value anywhere."""

import logging

import torch
from torch import Tensor, nn

from anywidth import Elastic
from anywidth.tracing.meta_answers import answers_on_meta


class Looking(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y = self[0](x).relu()
        return self[1](y) if (y > 3).any() else self[1](y * float(y.sum() + 1))


def network(hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, hidden, 3), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Flatten(), nn.Linear(16 * hidden, 2)
    )


def test_a_network_on_meta_is_counted_viewed_and_copied():
    with torch.device("meta"):
        model, compact, x = network(8), network(5), torch.empty(1, 3, 6, 6)
    net = Elastic(model, x).eval()
    width = net.space.width({"0": 5})
    assert net.params(width) == sum(p.numel() for p in compact.parameters())
    assert net.macs(width) == 16 * 27 * 5 + 16 * 5 * 2
    small = net.extract(width)
    assert {n: t.shape for n, t in small.state_dict().items()} == {
        n: t.shape for n, t in compact.state_dict().items()
    }
    assert small(x).shape == net.train().at(width)(x).shape == (1, 2)
    assert small(x).is_meta


def test_questions_about_values_are_answered_and_reported(caplog):
    with torch.device("meta"):
        model, x = Looking(nn.Linear(4, 8), nn.Linear(8, 2)), torch.empty(3, 4)
    with caplog.at_level(logging.WARNING):
        net = Elastic(model, x)
    assert [(g.name, g.size) for g in net.space.groups] == [("0", 8)]
    assert "branches that depend on them were not tried, but taken as for no or 0: in <root>" in caplog.text


def test_values_that_exist_are_looked_at():
    model, x = nn.Linear(2, 2), torch.ones(1)
    with answers_on_meta(model, x):
        assert bool(x)
    with torch.device("meta"):
        nothing = torch.empty(1)
    with answers_on_meta(model, nothing):
        assert bool(x)
        assert not bool(nothing)
        assert nothing.item() == 0.0


def test_building_time_grows_with_the_number_of_layers():
    """A view's hooks were searched through everything that they reached: 1,000 layers took 14 times as long as 250."""
    from anywidth.tracing.trace import following

    model = nn.Linear(2, 2)
    with following(model, lambda module: None, lambda: None):
        hooks = [*model._forward_pre_hooks.values(), *model._forward_hooks.values()]
        assert len(hooks) == 2
        assert not any(hasattr(hook, "__dict__") for hook in hooks)
