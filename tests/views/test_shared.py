import gc

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
