import pytest
from torch.testing import assert_close

from live_views import X, mlp, same
from narrow_views import IMAGE, elastic, width
from oracles import TIGHT, rand


def test_hooks_on_a_view_do_not_reach_the_wide_network():
    net = elastic()
    view = net.at(width(net))
    seen = []
    view.register_forward_pre_hook(lambda m, args: seen.append("view"))
    net(rand(*IMAGE))
    assert seen == []
    view(rand(*IMAGE))
    assert seen == ["view"]


@pytest.mark.parametrize("before", [True, False])
def test_hooks_of_the_wide_network_run_in_views(before):
    net, acts, args = mlp(), [], []
    view = net.at(0.5) if before else None
    net.model[0].register_forward_hook(lambda m, i, o: acts.append((m, o)))
    net.model[3].register_forward_pre_hook(lambda m, i: args.append(i[0].shape))
    view = net.at(0.5) if view is None else view
    view(X)
    net.at(0.25)(X)
    assert [o.shape[1] for _, o in acts] == [8, 4]
    assert acts[0][0] is view[0]
    assert args == [(5, 8), (5, 4)]
    net.extract(0.5)(X)
    assert len(acts) == 3  # copies call the same hook, which appends to the same list


def test_hooks_that_change_what_passes():
    net = mlp().eval()
    view = net.at(0.5)
    handle = net.model[0].register_forward_hook(lambda m, i, o: 2 * o)
    same(net)
    handle.remove()
    assert_close(view(X), net.extract(0.5)(X), **TIGHT)


def test_hooks_on_a_view_stay_there_and_run_last():
    net, order = mlp().eval(), []
    net.model[0].register_forward_hook(lambda m, i, o: order.append("wide"))
    view = net.at(0.5)
    handle = view[0].register_forward_hook(lambda m, i, o: order.append("own"))
    view[0].register_forward_hook(lambda m, i, o: 0 * o, prepend=True)
    net.model[0].register_forward_hook(lambda m, i, o: order.append("later"))
    assert net.at(0.5) is not view
    same(net)
    order.clear()
    out = view(X)
    assert order == ["wide", "later", "own"]
    assert_close(out, view(0 * X))
    handle.remove()
    order.clear()
    view(X)
    assert order == ["wide", "later"]
    net(X)
    assert order == ["wide", "later"] * 2


def test_backward_hooks_registered_before_and_after():
    for late in (False, True):
        net, seen = mlp().eval(), []
        view = net.at(0.5)
        if late:
            view(X)
        net.model[3].register_full_backward_hook(
            lambda m, gi, go, seen=seen: seen.append((gi[0].shape[1], go[0].shape[1]))
        )
        view(X).sum().backward()
        assert seen == [(8, 6)]
        view[3].register_full_backward_hook(lambda m, gi, go, seen=seen: seen.append("own"))
        view(X).sum().backward()
        assert seen[1:] == [(8, 6), "own"]
