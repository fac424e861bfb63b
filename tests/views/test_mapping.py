import copy
import types
from collections import namedtuple
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from anywidth import Elastic
from anywidth.views.mapping import holds_function, mapped, reaches
from live_views import X
from oracles import TIGHT, assert_narrow, rand, randomized


class Entangled(nn.Module):
    """Refers to its own parts behind PyTorch's back."""

    def __init__(self, width: int):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2)
        self.order = [self.a, self.b]
        self.by_name = {"b": self.b}
        self.method, self.bound = self.twice, partial(F.linear, weight=torch.ones(2, 2))
        self.call = partial(self.finish, scale=2.0)
        self.register_buffer("table", torch.ones(width))
        self.register_buffer("nothing", None)

    def twice(self, y: Tensor) -> Tensor:
        return self.by_name["b"](y) * self.table

    def finish(self, y: Tensor, scale: float) -> Tensor:
        return self.c(y) * scale

    def forward(self, x: Tensor) -> Tensor:
        for m in self.order:
            x = m(x)
        return self.call(self.method(x))


def test_references_to_modules_and_methods_point_into_the_view():
    net = Elastic(randomized(Entangled(6)), rand(2, 3))
    assert_narrow(net, 0.5, Entangled(3), rand(2, 3))
    view = net.at(0.5)
    assert view.order[0] is view.a
    assert view.by_name["b"] is view.b
    assert view.method.__self__ is view
    assert view.call.func.__self__ is view
    assert net.model.order[0] is net.model.a
    made = copy.deepcopy(view)
    assert made.order[0] is made.a
    assert made.method.__self__ is made
    assert_close(made(rand(2, 3)), view(rand(2, 3)))


class Behind(nn.Module):
    """Reaches its parts in every way, some only later."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.order, self.by_name = [self.a, self.b], {"c": self.c}
        self.bound, self.partial = self.last, partial(self.scaled, by=2.0)
        self.closure = lambda x: self.b(x)
        self.weights, self.later = [self.b.weight, self.b.bias], None

    def last(self, x: Tensor) -> Tensor:
        return self.by_name["c"](x)

    def scaled(self, x: Tensor, by: float) -> Tensor:
        return by * self.bound(x)

    def forward(self, x: Tensor) -> Tensor:
        for m in self.order:
            x = torch.tanh(m(x))
        x = torch.tanh(F.linear(self.closure(x), *self.weights))
        return self.partial(x if self.later is None else self.later(x))


LATER = {
    "attribute": lambda m: setattr(m, "later", m.b),
    "bound method": lambda m: setattr(m, "later", m.b.forward),
    "closure": lambda m: setattr(m, "later", lambda x: m.b(x)),
    "default": lambda m: setattr(m, "later", lambda x, layer=m.b: layer(x)),
    "list": lambda m: m.order.append(m.b),
    "new list": lambda m: setattr(m, "order", [m.a, m.b, m.b]),
    "nested": lambda m: setattr(
        m, "order", (m.a, m.b, partial(lambda layers, x: layers["b"][0](x), {"b": [m.b]}))
    ),
    "dict": lambda m: m.by_name.update(c=lambda x: m.c(m.b(x))),
    "tensors": lambda m: setattr(
        m, "weights", (m.b.weight * 2, m.b.bias)[1:] and [m.b.weight, m.c.weight[:1].sum() * 0 + m.b.bias][:1]
    ),
    "partial": lambda m: setattr(m, "partial", partial(m.scaled, by=3.0)),
    "patched": lambda m: setattr(
        m, "forward", types.MethodType(lambda self, x: 2 * type(self).forward(self, x), m)
    ),
    "hook": lambda m: m.a.register_forward_hook(lambda _, i, o: o + m.b.bias.sum()),
    "compiled": lambda m: m.compile(backend="eager"),
    "new attribute": lambda m: (
        setattr(m, "_old", m.forward),
        setattr(m, "forward", lambda x: 3 * m._old(x)),
    ),
}


ADDS_A_MODULE = ("attribute",)  # a view made before is stale then


@pytest.mark.parametrize("what", LATER)
@pytest.mark.parametrize("before", [True, False])
def test_references_are_mapped_at_the_time_of_use(what, before):
    before = before and what not in ADDS_A_MODULE
    net = Elastic(randomized(Behind()), X)
    assert net.space.groups
    view = net.at(0.5)
    view(X)
    LATER[what](net.model)
    out = view(X) if before else net.at(0.5)(X)
    assert_close(out, net.extract(0.5)(X), **TIGHT)
    wide = net.model(X)
    assert not torch.allclose(out, wide)
    with torch.no_grad():  # it reads the active half and nothing else
        for p in net.model.parameters():
            p[
                tuple(slice(n // 2 if n == 8 else 0, None) for n in p.shape) if 8 in p.shape else slice(0, 0)
            ] = torch.nan
    assert_close(net.at(0.5)(X), out, **TIGHT)


A, B = nn.Linear(2, 2), nn.Linear(2, 2)


def lookup(value):
    return B if value is A else None


def test_what_holds_no_part_is_the_same_object():
    for value in (
        [1, 2],
        {"a": (3,)},
        (lambda x: x + 1),
        partial(F.linear, weight=torch.ones(2)),
        {4, 5},
        nn.ReLU(),
    ):
        assert mapped(value, lookup) is value


def test_parts_are_replaced_wherever_they_are():
    assert mapped([A, 1, A], lookup) == [B, 1, B]
    assert mapped({"part": (A, [A])}, lookup) == {"part": (B, [B])}
    assert mapped(A.forward, lookup).__self__ is B
    assert mapped(partial(F.linear, A), lookup).args == (B,)
    assert mapped(lambda layer=A: layer, lookup)() is B
    assert mapped((lambda layer: lambda: layer)(A), lookup)() is B
    pair = namedtuple("Pair", "part, size")(A, 3)
    assert mapped(pair, lookup) == (B, 3)
    assert mapped(pair, lookup).part is B


def test_a_list_that_holds_itself_ends():
    cycle = [1]
    cycle.append(cycle)
    assert mapped(cycle, lookup) is cycle


def test_what_may_lead_to_parts():
    assert all(
        map(reaches, (A, [A], {"a": (A,)}, A.forward, torch.ones(1), partial(print), lambda layer=1: layer))
    )
    assert not any(map(reaches, (3, "a", [1, "b"], {"a": None}, lambda x: x)))


def test_functions_with_a_closure_are_not_copied_by_deepcopy():
    assert holds_function([lambda layer=A: layer])
    assert holds_function({"a": partial(lambda layer=A: layer)})
    assert not holds_function([A, print, lambda x: x])
