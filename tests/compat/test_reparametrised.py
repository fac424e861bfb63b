import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from anywidth.compat.reparametrised import (
    forget_cached_weights_,
    no_cached_weights,
    own_parametrized_class_,
    parametrized_names,
    recomputed_tensors,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.mark.parametrize(
    "wrap",
    [nn.utils.weight_norm, nn.utils.spectral_norm, lambda m: prune.l1_unstructured(m, "weight", 0.5)],
)
def test_what_hooks_compute_is_computed_again(wrap):
    layer = wrap(nn.Linear(3, 4)).eval()
    layer(torch.zeros(1, 3))
    tensors = recomputed_tensors(layer)
    assert list(tensors) == ["weight"]
    torch.testing.assert_close(tensors["weight"](layer), layer.weight)
    assert recomputed_tensors(nn.Linear(3, 4)) == {}


def test_parametrizations_are_removed_from_a_copy_alone():
    layer = parametrizations.weight_norm(nn.Linear(3, 4))
    assert parametrized_names(type(layer)) == ["weight"]
    assert parametrized_names(nn.Linear) == []
    twin = copy.deepcopy(layer)
    own_parametrized_class_(twin)
    with torch.no_grad():
        twin.parametrizations.weight.original0.mul_(2)
    with parametrize.cached():
        torch.testing.assert_close(twin.weight, 2 * layer.weight)
    parametrize.remove_parametrizations(twin, "weight")
    assert type(twin) is nn.Linear
    torch.testing.assert_close(twin.weight, 2 * layer.weight)


def test_cached_weights_are_set_aside_and_forgotten():
    layer = parametrizations.weight_norm(nn.Linear(3, 4))
    with parametrize.cached():
        first = layer.weight
        with no_cached_weights():
            assert layer.weight is not first
        assert layer.weight is first
        forget_cached_weights_([nn.Linear(1, 1)])
        assert layer.weight is first
        forget_cached_weights_([layer])
        assert layer.weight is not first
