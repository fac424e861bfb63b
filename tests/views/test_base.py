import pytest
from torch import nn

from anywidth import Elastic, errors
from anywidth.views.base import dotted, is_view, own_of_width, refuse
from live_views import X, mlp, same


def test_a_view_used_after_its_module_was_removed():
    for change in (
        lambda m: m.__delitem__(4),
        lambda m: m.append(nn.ReLU()),
        lambda m: m.__setitem__(2, nn.GELU()),
        lambda m: m.insert(1, nn.Identity()),
    ):
        net = mlp().eval()
        view = net.at(0.5)
        change(net.model)
        with pytest.raises(errors.StaleViewError, match=r"Call net.at\(width\) again"):
            view(X)
    net = mlp().eval()
    net.at(0.5)
    net.model[2] = nn.GELU()
    same(net)


def test_what_a_width_has_of_its_own_are_its_norms():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    net = Elastic(model.double(), X, widths=[0.5, 1.0], norm="switchable").eval()
    norm = net.at(0.5)[1]
    assert own_of_width(norm, "weight") is next(p for p in net.norms.parameters() if p.shape == (4,))
    assert own_of_width(norm, "running_mean").shape == (4,)
    assert own_of_width(net.at(0.5)[0], "weight") is None
    shared = Elastic(model.double(), X, widths=[0.5, 1.0]).at(0.5)[1]
    assert own_of_width(shared, "weight") is None
    assert own_of_width(shared, "running_mean", training=True).shape == (4,)


def test_modules_of_views_are_told_from_others():
    net = mlp()
    assert all(map(is_view, net.at(0.5).modules()))
    assert not any(map(is_view, net.model.modules()))
    assert not any(map(is_view, net.extract(0.5).modules()))


def test_a_name_has_the_path_of_its_module():
    view = Elastic(nn.Sequential(nn.Sequential(nn.Linear(6, 8)), nn.Linear(8, 2)).double(), X).at(0.5)
    assert (dotted(view[0][0], "weight"), dotted(view, "scale")) == ("0.0.weight", "scale")
    with pytest.raises(errors.ViewError, match=r"cannot bend a view of Linear.*net\.extract\(width\)"):
        refuse(view[0][0], "bend")
