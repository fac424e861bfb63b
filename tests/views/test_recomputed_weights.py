"""Weights that a layer computes from others: `weight_norm`, masks of pruning, parametrizations, in views and in copies."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import anywidth as aw
from anywidth import Elastic
from oracles import rand, randomized

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class LowRank(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(rows, 2)), nn.Parameter(torch.ones(2, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


def old_weight_norm(layer: nn.Linear) -> nn.Module:
    return nn.utils.weight_norm(layer)


def pruned(layer: nn.Linear) -> nn.Module:
    mask = torch.arange(layer.weight.numel()).reshape(layer.weight.shape) % 3 > 0
    prune.custom_from_mask(layer, "weight", mask)
    return prune.custom_from_mask(layer, "bias", torch.arange(len(layer.bias)) % 4 > 0)


def new_weight_norm(layer: nn.Linear) -> nn.Module:
    return parametrizations.weight_norm(layer)


def low_rank(layer: nn.Linear) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape))


def network(wrap, hidden: int = 8) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(3, hidden)), nn.ReLU(), nn.Linear(hidden, 2))


def masked_by_hand(model: nn.Module, kept: int) -> nn.Module:
    """The compact network of plain layers, of the rows of what the wide one computes."""
    compact = network(lambda layer: layer, kept).double()
    with torch.no_grad():
        compact[0].weight.copy_(model[0].weight[:kept])
        compact[0].bias.copy_(model[0].bias[:kept])
        compact[2].weight.copy_(model[2].weight[:, :kept])
        compact[2].bias.copy_(model[2].bias)
    return compact


def remove_(layer: nn.Module) -> None:
    if parametrize.is_parametrized(layer):
        parametrize.remove_parametrizations(layer, "weight")
    elif hasattr(layer, "weight_mask"):
        prune.remove(layer, "weight")
        prune.remove(layer, "bias")
    else:
        nn.utils.remove_weight_norm(layer)


def group_of(net: Elastic) -> str:
    """The hidden channels; a low-rank update has its rank as another group."""
    (name,) = (g.name for g in net.space.groups if g.size == 8)
    return name


WRAPS = [old_weight_norm, pruned, new_weight_norm, low_rank]


@pytest.mark.parametrize("wrap", WRAPS)
def test_views_and_copies_compute_the_rows_of_the_wide_weight(wrap):
    model, x = randomized(network(wrap)), rand(4, 3)
    full = model(x)
    net = Elastic(model, x)
    width = net.space.width({group_of(net): 5})
    expected = masked_by_hand(model, 5)(x)
    view = net.at(width)
    assert view[0].weight.shape == (5, 3)
    assert view[0].out_features == 5
    torch.testing.assert_close(view(x), expected)
    view(x).sum().backward()
    for copied in (net.extract(width), copy.deepcopy(view), copy.deepcopy(net).extract(width)):
        assert copied[0].weight.shape == (5, 3)
        torch.testing.assert_close(copied(x), expected)
    torch.testing.assert_close(model(x), full)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_copy_trains_and_its_hook_is_removed(wrap):
    model, x = randomized(network(wrap)), rand(4, 3)
    net = Elastic(model, x)
    small = net.extract(0.5)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    before = small(x).detach()
    small(x).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())
    optimizer.step()
    trained = small(x).detach()
    assert not torch.allclose(trained, before)
    wide = model(x)
    remove_(small[0])
    torch.testing.assert_close(small(x), trained)
    assert set(small[0].state_dict()) == {"weight", "bias"}
    torch.testing.assert_close(model(x), wide)
    torch.testing.assert_close(net.at(0.5)(x), before)


@pytest.mark.parametrize("wrap", [old_weight_norm, pruned])
def test_a_copy_is_saved(wrap):
    net = Elastic(randomized(network(wrap)), rand(4, 3))
    small, file = net.extract(0.5), io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(rand(4, 3)), small(rand(4, 3)))


def test_masks_are_cut_along_with_weights():
    net = Elastic(randomized(network(pruned)), rand(4, 3))
    small = net.extract(0.5)
    assert small[0].weight_mask.shape == small[0].weight_orig.shape == (4, 3)
    masked = aw.prune.masked(net, 0.5)
    torch.testing.assert_close(masked(rand(4, 3)), small(rand(4, 3)))


@pytest.mark.parametrize("wrap", WRAPS)
def test_weights_that_are_cached_are_of_their_own_width(wrap):
    model, x = randomized(network(wrap)), rand(4, 3)
    net = Elastic(model, x)
    model(x)
    expected = {net.space.width({group_of(net): k}): masked_by_hand(model, k)(x) for k in (2, 5, 8)}
    with parametrize.cached():
        again = Elastic(model, x)
        for _ in range(2):
            for w, out in expected.items():
                torch.testing.assert_close(net.at(w)(x), out)
                torch.testing.assert_close(net.extract(w)(x), out)
        assert again.space.to_json() == net.space.to_json()
        torch.testing.assert_close(model(x), out)


def test_spectral_norm_is_of_the_narrow_weight():
    layer = nn.utils.spectral_norm(nn.Linear(3, 8)).double().eval()
    net = Elastic(nn.Sequential(layer, nn.Linear(8, 2)).double().eval(), rand(4, 3)).eval()
    small = net.extract(0.5)
    torch.testing.assert_close(net.at(0.5)(rand(4, 3)), small(rand(4, 3)))
    nn.utils.remove_spectral_norm(small[0])
    torch.testing.assert_close(net.at(0.5)(rand(4, 3)), small(rand(4, 3)))
