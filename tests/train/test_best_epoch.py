import pytest
import torch

from anywidth.errors import RecipeError
from anywidth.train import FitConfig
from anywidth.train.best_epoch import BEST, Best
from anywidth.train.checkpoint import Parts
from anywidth.train.ema import Ema


def config(**changes) -> FitConfig:
    return FitConfig(**{"epochs": 10, "lr": 0.1, "eval_every": 3, **changes})


def parts_of(net, **options) -> Parts:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return Parts(net=net, optimizer=optimizer, scaler=torch.amp.GradScaler("cpu", enabled=False), **options)


def mark_(net, value: float) -> None:
    with torch.no_grad():
        net.model.fc.bias.fill_(value)


def marks(net) -> set[float]:
    return set(net.model.fc.bias.tolist())


def test_it_looks_every_few_epochs_and_at_the_last(tmp_path):
    best = Best(tmp_path, config(), lambda net: {})
    assert [epoch for epoch in range(1, 11) if best.due(epoch)] == [3, 6, 9, 10]
    assert not Best(tmp_path, config(eval_every=0), None).due(10)


@pytest.mark.parametrize(("by", "value"), [("mean", 0.5), ("min", 0.2), ("0.5", 0.8)])
def test_what_the_best_epoch_is_best_in(new_net, tmp_path, by, value):
    best = Best(tmp_path, config(best=by), lambda net: {"0.25": 0.2, "0.5": 0.8}, labels=["0.25", "0.5"])
    facts = best.look_(3, parts_of(new_net()))
    assert facts == {"scores": {"0.25": 0.2, "0.5": 0.8}, "value": pytest.approx(value), "best_epoch": 3}


def test_the_network_ends_with_the_weights_of_the_first_best_epoch(new_net, tmp_path):
    net, values = new_net(), iter([0.4, 0.7, 0.7, 0.6])
    best, parts = Best(tmp_path, config(), lambda net: {"x": next(values)}), parts_of(net)
    epochs = []
    for epoch in (3, 6, 9, 10):
        mark_(net, float(epoch))
        epochs.append(best.look_(epoch, parts)["best_epoch"])
    assert epochs == [3, 6, 6, 6]
    best.finish_(parts)
    assert marks(net) == {6.0}


def test_a_state_goes_on(new_net, tmp_path):
    best = Best(tmp_path, config(), lambda net: {"x": 0.5})
    best.look_(3, parts_of(new_net()))
    later = Best(tmp_path, config(), lambda net: {"x": 0.4})
    later.load_(best.state())
    (tmp_path / BEST).unlink()
    assert later.look_(6, parts_of(new_net()))["best_epoch"] == 3
    assert not (tmp_path / BEST).exists()


def test_a_moving_average_is_measured_and_is_the_result(new_net, tmp_path):
    net = new_net()
    ema = Ema(net, 0.5)
    mark_(ema.net, 2.0)
    mark_(net, 1.0)
    measured = []
    best = Best(tmp_path, config(), lambda net: measured.append(marks(net)) or {"x": 0.5})
    best.look_(3, parts_of(net, ema=ema))
    assert measured == [{2.0}]
    Best(tmp_path, config(eval_every=0), None).finish_(parts_of(net, ema=ema))
    assert marks(net) == {2.0}


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="nothing measures the network"):
        Best(tmp_path, config(), None)
    with pytest.raises(RecipeError, match=r"train.best: unknown metric '0.3'"):
        Best(tmp_path, config(best="0.3"), lambda net: {}, labels=["0.25"])
