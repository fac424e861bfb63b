import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.errors import WidthError
from anywidth.prune import PlanConfig, planned


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "torch8"}, "unknown rule 'torch8'; use one of None, network-slimming, torch7"),
        ({"scope": "all"}, "unknown scope 'all'; use one of global, layer, isomorphic"),
        ({"streams": "free"}, "unknown streams 'free'"),
        ({"empty": "drop"}, "unknown empty 'drop'"),
        ({"max_per_layer": 0.0}, r"max_per_layer = 0.0: .* lies in \(0, 1\]"),
        ({"max_per_layer": True}, "max_per_layer = True: expected a number"),
        ({"minimum": 0}, "both count channels and are at least 1"),
        ({"round_to": 1.5}, "round_to = 1.5: expected a whole number of channels"),
        ({"budget": 0.5}, "budget = 0.5: expected text like 'macs=50%'"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(WidthError, match=message):
        PlanConfig(**settings)


def test_a_config_and_its_settings_one_by_one_give_the_same_plan():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    net = aw.Elastic(model, torch.randn(1, 4))
    plan = planned(net, 0.5, PlanConfig(scope="layer", round_to=2), criterion="l1")
    assert plan == planned(net, 0.5, scope="layer", round_to=2, criterion="l1")
    assert plan == planned(net, 0.5, PlanConfig(scope="layer"), round_to=2, criterion="l1")
    assert plan.width.kept == (4, 4)
