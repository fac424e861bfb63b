import gc

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from anywidth import Elastic
from live_views import X, mlp
from narrow_views import IMAGE, assert_is_compact, compact, elastic, where, width
from oracles import assert_same_grads, expected_grads, rand, scalar


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_packed_weights_follow_every_update(ready, mode):
    view = ready.at("small")
    for seed in range(3):
        with mode():
            assert_is_compact(ready, view)
            assert_is_compact(ready, view)
        with torch.no_grad():
            for p in ready.model.parameters():
                p.add_(rand(*p.shape, seed=seed))


def test_packed_weights_do_not_outlive_evaluation(ready):
    view, x = ready.at("small"), rand(*IMAGE)
    step = torch.optim.SGD(ready.parameters(), lr=0.1)
    for _ in range(2):
        with torch.no_grad():
            assert_is_compact(ready, ready.eval().at("small"))
        ready.train()
        assert ready.at("small") is view
        step.zero_grad()
        scalar(view(x)).backward()
        other = compact(ready)
        scalar(other(x)).backward()
        assert_same_grads(ready.model, expected_grads(ready.model, other, where()))
        step.step()
        with torch.inference_mode():
            assert_is_compact(ready, ready.eval().at("small"))
        assert_is_compact(ready, view)  # evaluation with gradients
        scalar(view(x)).backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_view_first_made_in_inference_can_be_trained(mode):
    net, x = elastic(), rand(*IMAGE)
    with mode():
        view = net.at(width(net))
        view(x)
    other = compact(net)
    scalar(other(x)).backward()
    scalar(view(x)).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, where()))


def test_copies_for_inference_are_bounded_and_none_are_made_by_tracing():
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)], nn.Linear(64, 64), nn.Linear(64, 2))
    x = torch.randn(1, 64)
    net = Elastic(model, x).eval()
    size = sum(p.numel() * 4 for p in model.parameters())
    assert net._packs.bytes == 0
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(60):
            w = net.space.sample(generator)
            assert_close(net.at(w)(x), net.extract(w)(x))
            assert net._packs.bytes <= net._packs.limit == 3 * size
        assert net._packs.bytes > size
        net.drop_views_()
        assert net._packs.bytes == 0
        kept = net.at(0.5)
        kept(x)
        assert net._packs.bytes > 0
    net.train()
    before = net._packs.bytes
    for _ in range(20):
        net.at(net.space.sample(generator))(x).sum().backward()
    assert net._packs.bytes == before


def test_copies_go_with_their_view():
    net, x = mlp().eval(), X
    with torch.no_grad():
        net.at(0.5)(x)
        assert net._packs.bytes > 0
        net._views.clear()
        gc.collect()
        assert net._packs.bytes == 0
