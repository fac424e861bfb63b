import pytest
import torch
from torch import nn
from torch.testing import assert_close

from anywidth import Elastic
from anywidth.views import holding, instead, standing_for_tensors, unnoticed
from live_views import X, mlp, packed
from oracles import TIGHT


def test_what_is_written_to_a_view_stays_there():
    net = mlp()
    view = net.at(0.5)
    view[1].p = 0.0
    view.note = "mine"
    assert (view[1].p, view.note) == (0.0, "mine")
    assert net.model[1].p == net.at(0.5)[1].p == 0.5
    assert not hasattr(net.model, "note")
    assert net.at(0.5) is not view
    assert_close(view(X), view(X))  # no dropout
    del view.note
    assert not hasattr(view, "note")
    other = net.at(0.5).eval()
    assert not any(m.training for m in other.modules())
    assert all(m.training for m in net.model.modules())
    assert net.at(0.5) is not other
    assert_close(other(X), net.extract(0.5).eval()(X), **TIGHT)


def test_an_attribute_is_held_inside_and_the_view_stays_the_same():
    net = mlp().eval()
    view = net.at(0.5)
    kind = type(view[1])
    for module in (view[1], net.model[1]):
        with pytest.raises(KeyError), holding(module, p=0.9):
            raise KeyError
        with holding(module, p=0.9):
            assert module.p == 0.9
        assert module.p == 0.5
    assert type(view[1]) is kind
    assert net.at(0.5) is view


def test_buffers_are_replaced_inside():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).double()
    net = Elastic(model, X, norm="frozen").eval()
    for norm in (net.at(0.5)[1], net.model[1]):
        before, shifted = norm.running_mean, torch.full_like(norm.running_mean, 3.0)
        with instead(norm, running_mean=shifted):
            assert norm.running_mean is shifted
        assert torch.equal(norm.running_mean, before)


def test_what_is_done_unnoticed_does_not_make_it_another_view():
    net = mlp()
    view = net.at(0.5)
    with unnoticed(view):
        view.note = "mine"
        del view.note
    assert net.at(0.5) is view
    view.note = "mine"
    assert net.at(0.5) is not view


def test_tensors_of_a_view_are_one_object_each_while_a_graph_is_made():
    view, names = packed().at(0.5), {}
    with standing_for_tensors(view, names):
        weight = view.qkv.weight
        assert view.qkv.weight is weight
        assert names[id(weight)] == (view.qkv, "weight")
        assert len(names) == 4
    assert names == {}
    assert view.qkv.weight is not weight  # in the graph again
