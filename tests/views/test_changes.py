from torch.testing import assert_close

from live_views import X, mlp
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
