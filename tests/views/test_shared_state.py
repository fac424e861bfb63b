import gc

import pytest
import torch
from torch import nn

from anywidth import errors
from live_views import X, packed


def test_views_that_nobody_holds_are_gone_at_once():
    import weakref

    net = packed()
    view = net.at(0.5)
    view(X).sum().backward()
    reference = weakref.ref(view)
    net._views.clear()
    gc.disable()
    try:
        del view
        assert reference() is None
    finally:
        gc.enable()


def test_what_stands_for_the_parts_of_the_wide_network():
    net = packed()
    view = net.at(0.5)
    shared = view._view_shared
    assert shared.view_of(net.model) is view
    assert shared.view_of(net.model.qkv) is view.qkv
    assert torch.equal(shared.view_of(net.model.o.weight), net.model.o.weight[:, :4])
    for stranger in (nn.Linear(6, 24), torch.ones(3), nn.Parameter(torch.ones(3))):
        assert shared.view_of(stranger) is None


def test_parameters_that_were_assigned_since_are_registered():
    net = packed()
    shared, before = net.at(0.5)._view_shared, net.model.o.weight
    net.model.o.weight = nn.Parameter(torch.ones_like(before))
    assert shared.registered(net.model.o.weight)
    assert not shared.registered(before)


def test_a_part_that_outlives_its_view_says_so():
    net = packed()
    shared = net.at(0.5)._view_shared
    net._views.clear()
    with pytest.raises(errors.StaleViewError, match="was kept longer than the view"):
        shared.view_of(net.model)
