"""Training in shares, as far as one process shows it: what is refused, and files that a kill leaves usable."""

import pytest
import torch
from torch import nn

from anywidth.errors import RecipeError
from anywidth.train import FitConfig, fit_
from anywidth.train.engine import new_engine
from anywidth.train.sharding import clip_, modules_to_shard, separate_
from anywidth.train.sparsity import SparsityConfig
from sharded_trainings import batches, fit, new_net, settings


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9},
        {"trunk": "stages.0"},
        {"compile": True},
        {"sparsity": SparsityConfig(l1=0.1)},
        {"skip_zero_gradients": True},
        {"channels_last": True},
        {"precision": "float16"},
        {"optimizer": "torch:Adafactor"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_go_with_shares(changes):
    with pytest.raises(
        RecipeError,
        match=rf"train\.{next(iter(changes))} = .* does not go with train.sharding = 'fully_shard'",
    ):
        new_engine(new_net(), settings(**changes))


def test_widths_that_are_searched_while_they_are_trained_need_the_whole_network(tmp_path):
    class Searching:
        def __call__(self, *args): ...
        def advance_(self, step): ...
        def state(self): ...
        def load_(self, state): ...
        def identity(self): ...
        def finish_(self): ...

    with pytest.raises(RecipeError, match=r"leave out train\.sharding, or use another widths.policy"):
        fit_(new_net(), batches, Searching(), settings(), seed=0, run=tmp_path)  # type: ignore[arg-type]


def test_patterns_name_modules_inner_ones_first():
    model = new_net().model
    modules = modules_to_shard(model, ["stages.*", "fc"])
    assert modules[0] is model.fc
    assert modules.index(model.stages[0][0]) < modules.index(model.stages[0])
    assert model.conv not in modules
    with pytest.raises(RecipeError, match=r"unknown module 'stage\.0'; did you mean 'stages.0'"):
        modules_to_shard(model, ["stage.0"])
    with pytest.raises(
        RecipeError, match=r"'0' is a ModuleList, which is never called; name what is in it: '0\.\*'"
    ):
        modules_to_shard(nn.Sequential(nn.ModuleList([nn.ReLU()])), ["0"])
    with pytest.raises(ValueError, match=r"shard_modules = .*none where sharding is not set"):
        FitConfig(epochs=1, lr=0.1, shard_modules=("fc",))


def test_one_process_trains_as_without_shares(tmp_path):
    nets = new_net(), new_net()
    for net, config in zip(nets, (settings(), FitConfig(epochs=2, lr=0.05)), strict=True):
        run = tmp_path / str(config.sharding)
        run.mkdir()
        fit(net, run, config)
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(p, q)


def test_clipping_is_torchs_own_where_nothing_is_sharded():
    generator = torch.Generator().manual_seed(0)
    models = [nn.Linear(4, 3), nn.Linear(4, 3)]
    for largest in (0.5, 100.0):
        for p, q in zip(*(m.parameters() for m in models), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        clip_(models[0].parameters(), largest)
        nn.utils.clip_grad_norm_(models[1].parameters(), largest)
        for p, q in zip(*(m.parameters() for m in models), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
    clip_([nn.Parameter(torch.zeros(1))], 1.0)  # no gradient, nothing to do


def test_groups_stay_where_nothing_is_sharded():
    optimizer = torch.optim.SGD([{"params": nn.Linear(2, 2).parameters(), "weight_decay": 0.5}], lr=1.0)
    separate_(optimizer)
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(2, 0.5)]
