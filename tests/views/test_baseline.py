import torch
from torch import Tensor, nn
from torch.testing import assert_close

from anywidth import Elastic
from anywidth.views.baseline import assigned_names, attributes_now, baseline
from live_views import X
from oracles import TIGHT, randomized


class Caches(nn.Module):
    """Keeps what it made, in every way."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 2)
        self.table, self.last = {}, None
        self.register_buffer("lazy", None)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if "mean" not in self.table:
            self.table["mean"] = h.detach().mean(0)
        if self.last is None:
            self.last = h.detach().abs().mean(0)
        if self.lazy is None:
            self.lazy = h.detach().square().mean(0)
        if not hasattr(self, "mask"):
            self.mask = (h.detach().mean(0) > 0).to(h)
        self.calls += 1
        return self.o(h * self.table["mean"] * self.last * self.lazy * self.mask)


def test_caches_never_cross_widths():
    net = Elastic(randomized(Caches()), X).eval()
    assert net.space.groups
    assert not hasattr(net.model, "mask")
    for order in ((1.0, 0.5, 0.25), (0.25, 1.0, 0.5)):
        net = Elastic(randomized(Caches()), X).eval()
        views = {w: net.at(w) for w in order}
        net.model(X)
        for w in order:
            assert_close(views[w](X), net.extract(w)(X), **TIGHT)
            assert views[w] is net.at(w)  # what its own forward assigns does not make it another view
            assert views[w].calls == 1 + net.model.calls
        net.model(X)
        assert [views[w].mask.numel() for w in order] == [int(8 * w) for w in order]
        assert net.model.mask.numel() == 8
        assert net.model.last.numel() == 8


def test_names_are_those_that_methods_assign_after_construction():
    assert assigned_names(Caches) == {"last", "lazy", "mask", "calls"}
    assert assigned_names(nn.Linear) == set()

    class Inheriting(Caches):
        @property
        def size(self):
            return self._size

        @size.setter
        def size(self, value):
            self._size = value

        def resize(self):
            self.size = 3

    assert assigned_names(Inheriting) == {"last", "lazy", "mask", "calls"}  # a property is no attribute


def test_attributes_are_kept_as_they_were():
    model = Caches()
    kept = baseline(model)
    assert list(kept) == ["", "a", "o"]
    kind, attributes = kept[""]
    assert kind is Caches
    assert attributes["table"].value == {}
    model.table["later"] = 1
    assert attributes["table"].value == {}
    assert attributes["last"].runtime
    assert not attributes["table"].runtime  # its items are assigned, it is not
    assert "mask" in attributes
    assert kept["a"][1] == {}  # what a layer of torch has leads nowhere


def test_tensors_in_attributes_are_noticed():
    model = nn.Linear(2, 2)
    model.scales = [torch.ones(2)]
    model.size = 3
    attributes = attributes_now(model)
    assert attributes["scales"].holds_tensors
    assert "size" not in attributes
