"""A view is the wide network read at the time of use: whatever is done to the one or the other, by whatever entry."""

import copy
import gc
import pickle
import threading
import types
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.testing import assert_close

from anywidth import Elastic, errors
from anywidth.views import is_view
from oracles import TIGHT, rand, randomized
from random_nets import RandomNet

X = rand(5, 6)


def mlp(**options) -> Elastic:
    model = nn.Sequential(
        nn.Linear(6, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2)
    )
    return Elastic(randomized(model), X, **{"widths": [0.5, 1.0], **options})


def same(net: Elastic, x: Tensor = X, widths=(0.25, 0.5, 1.0)) -> None:
    """Views compute what copies made now compute."""
    for w in widths:
        torch.manual_seed(0)
        mine = net.at(w)(x)
        torch.manual_seed(0)
        assert_close(mine, net.extract(w)(x), **TIGHT)


# --- hooks ---------------------------------------------------------------------------------------------------------------


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


# --- flags, attributes, modes --------------------------------------------------------------------------------------------


def test_attributes_are_the_wide_networks_current_ones():
    net = mlp()
    old = net.at(0.5)
    old(X)
    net.model[1].p = 0.0
    assert old[1].p == net.at(0.25)[1].p == 0.0
    assert net.at(0.5) is old
    same(net)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    net = Elastic(randomized(model), rand(2, 3, 4, 4), widths=[0.5])
    net.calibrate([rand(8, 3, 4, 4)])
    view = net.eval().at(0.5)
    x, before = rand(2, 3, 4, 4), view(rand(2, 3, 4, 4))
    net.model[1].eps = 0.5
    assert not torch.allclose(view(x), before)
    same(net, x, widths=[0.5])


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


def test_a_view_has_the_mode_of_the_wide_network_at_once():
    net = mlp()
    view = net.at(0.5)
    net.eval()
    assert not any(m.training for m in view.modules())
    net.model[1].train()
    assert view[1].training
    assert net.at(0.5) is view


def test_a_frozen_teacher():
    net = mlp()
    with pytest.raises(errors.ViewError, match=r"cannot freeze a view of Sequential.*net.extract\(width\)"):
        net.at(1.0).requires_grad_(False)
    for p in net.at(1.0).parameters():
        with pytest.raises(errors.ViewError, match="cannot be frozen"):
            p.requires_grad_(False)
        with pytest.raises(errors.ViewError, match="cannot be frozen"):
            p.requires_grad = False
    net.at(1.0)(X).sum().backward()
    assert all(p.grad is not None for p in net.model.parameters())
    net.model.requires_grad_(False)
    assert not net.at(0.5)(X).requires_grad
    assert net.at(0.5).requires_grad_ is not None
    net.model.requires_grad_(True)
    assert net.at(0.5)(X).requires_grad


@pytest.mark.parametrize("cast", [lambda v: v.half(), lambda v: v.to(torch.float32), lambda v: v.to("meta"), lambda v: v.to_empty(device="cpu"), lambda v: v.bfloat16()])  # fmt: skip
def test_casts_of_views_are_refused(cast):
    net = mlp()
    with pytest.raises(errors.ViewError, match=r"cannot move or cast a view"):
        cast(net.at(0.5))
    with pytest.raises(errors.ViewError):
        cast(net.at(0.5)[0])
    same(net.eval())


def test_casts_that_change_nothing_are_none():
    view = mlp().at(0.5)
    assert view.double() is view
    assert view.to("cpu") is view
    assert view.cpu() is view


def test_masks_and_parametrizations_of_views_are_refused():
    net = mlp().eval()
    with pytest.raises(errors.ViewError, match=r"cannot register"):
        prune.l1_unstructured(net.at(0.5)[0], "weight", 0.5)
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor"):
        parametrize.register_parametrization(net.at(0.5)[3], "weight", nn.Identity())
    with pytest.raises(errors.ViewError):
        net.at(0.5)[0].register_parameter("extra", nn.Parameter(torch.ones(1)))
    with pytest.raises(errors.ViewError):
        del net.at(0.5)[0].weight
    same(net)
    assert list(net.model.state_dict()) == [f"{i}.{t}" for i in (0, 3, 5) for t in ("weight", "bias")]


def test_masks_of_the_wide_network_make_it_another_network():
    net = mlp().eval()
    view = net.at(0.5)
    prune.l1_unstructured(net.model[0], "weight", 0.5)
    with pytest.raises(errors.StaleViewError, match=r"'0.weight' is no longer a tensor"):
        view(X)
    with pytest.raises(errors.TraceError, match="is not of this Sequential"):
        net.extract(0.5)
    masked, plain = Elastic(net.model, X).eval(), mlp().model.eval()
    prune.remove(prune.l1_unstructured(plain[0], "weight", 0.5), "weight")
    assert_close(masked.at(0.5)(X), Elastic(plain, X).at(0.5)(X), **TIGHT)


@pytest.mark.parametrize("w", [0.5, 1.0])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_over_a_view_is_refused(optimiser, w):
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optimiser(mlp().at(w).parameters(), lr=0.1)


def test_modules_of_a_view_may_be_replaced_there():
    net = mlp().eval()
    view = net.at(0.5)
    view[5] = nn.Identity()
    assert view(X).shape == (5, 6)
    assert net.at(0.5)(X).shape == (5, 2)
    view.add_module("6", nn.Flatten())
    assert len(view) == 7
    assert len(net.model) == 6
    assert copy.deepcopy(view)(X).shape == (5, 6)


# --- tensors -----------------------------------------------------------------------------------------------------------------


class Packed(nn.Module):
    """A packed layer: at narrow widths its weight is gathered."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.width, self.qkv, self.o = width, nn.Linear(6, 3 * width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(self.width, dim=-1)
        return self.o(torch.tanh(q) * k + v)


def packed() -> Elastic:
    return Elastic(randomized(Packed()), X)


def test_gathered_weights_are_read_at_the_time_of_use():
    net = packed()
    view = net.at(0.5)
    view(X)
    with torch.no_grad():
        net.model.qkv.weight.mul_(2)
    same(net)
    net.model.qkv.weight = nn.Parameter(torch.randn_like(net.model.qkv.weight))
    net.model.load_state_dict(randomized(Packed(), seed=3).state_dict(), assign=True)
    assert_close(view(X), net.extract(0.5)(X), **TIGHT)


def test_a_gathered_weight_changed_between_forward_and_backward():
    """The copy that the forward read is what the gradient is taken at."""
    net = packed()
    small = net.extract(0.5)
    out = net.at(0.5)(X)
    with torch.no_grad():
        net.model.qkv.weight.mul_(3)
    out.square().sum().backward()
    small(X).square().sum().backward()
    rows = torch.cat([torch.arange(4) + 8 * i for i in range(3)])
    assert_close(net.model.qkv.weight.grad[rows], small.qkv.weight.grad, **TIGHT)
    assert_close(net.model.o.weight.grad[:, :4], small.o.weight.grad, **TIGHT)


WRITES = {
    "mul_": lambda t: t.mul_(2),
    "data": lambda t: t.data.fill_(0.5),
    "detach": lambda t: t.detach().copy_(torch.ones_like(t)),
    "row": lambda t: t[1].zero_(),
    "item": lambda t: t.__setitem__((0, 0), 7.0),
    "out": lambda t: torch.mul(t.detach(), 3, out=t),
    "init": lambda t: nn.init.constant_(t, 0.25),
    "foreach": lambda t: torch._foreach_mul_([t], 2.0),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("grad", [True, False])
def test_in_place_writes_reach_the_wide_network(how, grad):
    for path in ("qkv", "o"):
        net = packed().eval()
        view, before = net.at(0.5), copy.deepcopy(net.model)
        with torch.set_grad_enabled(grad), torch.no_grad():
            view(X)
            WRITES[how](view.get_submodule(path).weight)
        part = dict(view.named_parameters())[f"{path}.weight"]
        assert not torch.equal(net.model.get_submodule(path).weight, before.get_submodule(path).weight)
        assert_close(part.detach(), net.extract(0.5).get_submodule(path).weight.detach())
        same(net)


def test_writes_by_way_of_parameters_and_state():
    net = packed().eval()
    view = net.at(0.5)
    with torch.no_grad():
        for p in view.parameters():
            p.fill_(0.25)
    assert (net.extract(0.5).qkv.weight == 0.25).all()
    assert (net.model.qkv.weight[4:8] != 0.25).all()
    state = {n: torch.full_like(t, 0.75) for n, t in view.state_dict().items()}
    for assign in (False, True):
        state = {n: t + 1 for n, t in state.items()}
        view.load_state_dict(state, assign=assign)
        for n, t in net.extract(0.5).state_dict().items():
            assert torch.equal(t, state[n]), (n, assign)
    view.o.bias = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert (net.model.o.bias == 1).all()
    with pytest.raises(
        errors.ViewError, match=r"'o.weight' is \(2, 4\) at this width; \(2, 8\) cannot be written"
    ):
        view.o.weight = nn.Parameter(torch.ones(2, 8, dtype=torch.float64))
    same(net)


def test_parameters_are_parts_in_the_graph():
    net = packed()
    view = net.at(0.5)
    for (n, p), (m, q) in zip(view.named_parameters(), net.model.named_parameters(), strict=True):
        assert n == m
        assert p.grad_fn is not None
        (grad,) = torch.autograd.grad(p.sum(), q)
        assert grad.sum() == p.numel()
    assert all(t.grad_fn is not None for t in view.state_dict(keep_vars=True).values())
    assert all(t.grad_fn is None and t.is_contiguous() for t in view.state_dict().values())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.middle, self.head = (
            nn.Embedding(11, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 11, bias=False),
        )
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.words(x)))


def test_tied_parameters_are_listed_once():
    x = torch.tensor([[1, 2, 3]])
    net = Elastic(randomized(Tied()), x)
    assert net.space.groups
    view = net.at(0.5)
    assert [n for n, _ in view.named_parameters()] == [n for n, _ in net.model.named_parameters()]
    assert len({id(p) for p in view.parameters()}) == 3
    outer = nn.Sequential(view)
    assert [n for n, _ in outer.named_parameters()] == ["0.words.weight", "0.middle.weight", "0.middle.bias"]
    for made in (copy.deepcopy(view), net.extract(0.5)):
        assert made.head.weight is made.words.weight
    out = torch.func.functional_call(view, {n: torch.zeros_like(p) for n, p in view.named_parameters()}, (x,))
    assert not out.any()
    same(net, x)


def test_the_networks_state_goes_to_another_that_lists_other_widths():
    model = lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))  # noqa: E731
    x = rand(4, 3, 4, 4)
    net = Elastic(randomized(model()), x, widths=[0.5, 1.0])
    net.list_width_("searched", {"0": 3})
    net.calibrate([x])
    state = net.state_dict()
    assert "norms.statistics/searched/1.running_mean" in state
    assert "norms.statistics/0.5/1.running_var" in state
    assert all(isinstance(t, Tensor) for t in state.values())
    other = Elastic(randomized(model(), seed=4), x, widths=[1.0])
    other.load_state_dict(state)
    assert other.widths == {1.0: net.width(1.0), 0.5: net.width(0.5), "searched": net.width("searched")}
    for w in ("searched", 0.5, 1.0):
        assert_close(other.eval().at(w)(x), net.eval().at(w)(x), **TIGHT)
    again = Elastic(randomized(model(), seed=5), x, widths=[0.75])
    again.load_state_dict(state)
    assert list(again.widths) == [0.75, "searched", 0.5, 1.0] or set(again.widths) == {
        0.75,
        0.5,
        1.0,
        "searched",
    }


def test_the_state_of_another_network_is_an_error():
    with pytest.raises(errors.CheckpointError, match="not the widths of this network"):
        mlp().load_state_dict(packed().state_dict())


@pytest.mark.parametrize("labels", [(1, "1.0"), (1.0, "1"), ("0.5", 0.5), ("0.50", "0.5")])
def test_labels_that_look_alike_are_refused(labels):
    with pytest.raises(errors.WidthError, match=r"cannot be told from"):
        mlp(widths=dict.fromkeys(labels, 0.5))


# --- what reaches modules behind PyTorch's back ----------------------------------------------------------------------------


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


class Patched(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_forward_as_accelerate_patches_it():
    accelerate = pytest.importorskip("accelerate")
    net = mlp().eval()
    view = net.at(0.5)
    seen = []

    class Hook(accelerate.hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            seen.append(type(module).__name__)
            return args, kwargs

    for m in net.model:
        accelerate.hooks.add_hook_to_module(m, Hook())
    with torch.no_grad():
        assert_close(view(X), net.at(0.5)(X))
    assert len(seen) == 12
    assert view[0].forward is not net.model[0].forward
    out = net.at(0.5)(X)
    with torch.no_grad():
        net.model[0].weight[8:] = torch.nan
    assert_close(net.at(0.5)(X), out)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.r, self.o = (
                nn.Linear(6, 8),
                kind(8, 8, num_layers=2, batch_first=True),
                nn.Linear(8, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.r(self.a(x))[0])

    x = rand(2, 3, 6)
    net = Elastic(randomized(Net()), x)
    assert net.space.groups
    view = net.at(0.5)
    view(x)
    with torch.no_grad():
        for p in net.model.parameters():
            p.mul_(1.5)
    same(net, x)
    net.model.load_state_dict(randomized(Net(), seed=4).state_dict(), assign=True)
    assert_close(view(x), net.extract(0.5)(x), **TIGHT)
    view(x).sum().backward()
    assert net.model.r.weight_ih_l0.grad is not None or net.model.a.weight.grad is not None


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


# --- entries ------------------------------------------------------------------------------------------------------------------


def vit() -> timm.models.VisionTransformer:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)


def test_every_entry_reads_the_weights_as_they_are():
    x = torch.randn(2, 3, 32, 32)
    net = Elastic(vit(), x[:1])
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    view = net.at(0.5)
    for _ in range(3):
        optimizer.zero_grad()
        view.forward_head(view.forward_features(x)).square().mean().backward()
        optimizer.step()
    for v in (view, net.at(0.5)):
        assert_close(v.forward_head(v.forward_features(x)), net.extract(0.5)(x))
        assert_close(
            v.blocks[0](v.patch_embed(x)), net.extract(0.5).blocks[0](net.extract(0.5).patch_embed(x))
        )


def normed(**options) -> Elastic:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 2, 1),
    )
    return Elastic(randomized(model), rand(2, 3, 4, 4), **options)


def test_statistics_are_asked_for_by_every_entry():
    net, x = normed(widths=[0.5]).eval(), rand(2, 3, 4, 4)
    view = net.at(0.5)
    for call in (
        lambda: view(x),
        lambda: view[1](view[0](x)),
        lambda: view[:2](x),
        lambda: nn.Sequential.forward(view, x),
        lambda: view[1].running_mean,
        lambda: torch.compile(view, backend="eager")(x),
        lambda: net.compile([0.5], backend="eager")[0.5](x),
    ):
        with pytest.raises(errors.StatisticsError, match="calibrate"):
            call()
    view[0](x)  # before any norm
    net.calibrate([x])
    view(x)


def test_a_stem_that_no_narrow_group_reaches_uses_the_wide_networks_statistics():
    net, x = normed(freeze=["0"]), rand(8, 3, 4, 4)
    net.train()
    net.model[:2].eval()
    net.model[:2].requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        w = net.space.sample(generator)
        view = net.at(w)
        view(x).sum().backward()
        assert_close(view[:2](x), net.model[:2](x), **TIGHT)
    net.eval()
    with pytest.raises(errors.StatisticsError, match="'4' and 0 more"):
        net.at(0.3)(x)
    net.calibrate([x], widths=[0.3])
    assert_close(net.at(0.3)(x), net.extract(0.3)(x), **TIGHT)


def test_full_channels_behind_narrow_ones_have_statistics_of_their_own():
    net, x = normed(freeze=["3"], widths=[0.5]).eval(), rand(8, 3, 4, 4)
    assert net.at(0.5)[4].num_features == 6
    with pytest.raises(errors.StatisticsError):
        net.at(0.5)(x)
    net.calibrate([x])
    assert not torch.allclose(net.at(0.5)[4].running_mean, net.model[4].running_mean)


def test_frozen_norms_stay_frozen_by_every_entry():
    net, x = normed(norm="frozen").train(), rand(8, 3, 4, 4)
    view, before = net.at(0.5), {n: b.clone() for n, b in net.model.named_buffers()}
    view[1](view[0](x))
    nn.Sequential.forward(view, x)
    net.model.train()
    view(x)
    assert not view[1].training
    assert all(torch.equal(b, before[n]) for n, b in net.model.named_buffers())


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


# --- copies ---------------------------------------------------------------------------------------------------------------------


def test_parts_of_a_view_are_copied_alone():
    net = packed()
    part = net.at(0.5).qkv
    for made in (copy.deepcopy(part), pickle.loads(pickle.dumps(part)), copy.copy(part)):
        assert type(made) is nn.Linear
        assert not is_view(made)
        assert made.out_features == 12
        assert_close(made(X), part(X), **TIGHT)
    holder = copy.deepcopy(nn.ModuleDict({"view": net.at(0.5), "wide": nn.Linear(2, 2)}))
    assert type(holder["view"]) is Packed
    assert holder["view"].qkv.weight.is_leaf


# --- memory and threads -------------------------------------------------------------------------------------------------------


def test_copies_for_inference_are_bounded_and_none_are_made_by_tracing():
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)], nn.Linear(64, 64), nn.Linear(64, 2))
    x = torch.randn(1, 64)
    net = Elastic(model, x).eval()
    size = sum(p.numel() * 4 for p in model.parameters())
    assert net._packs.bytes == 0
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(60):
            w = net.space.sample(generator)
            assert_close(net.at(w)(x), net.extract(w)(x))
            assert net._packs.bytes <= net._packs.limit == 3 * size
        assert net._packs.bytes > size
        net.drop_views_()
        assert net._packs.bytes == 0
        kept = net.at(0.5)
        kept(x)
        assert net._packs.bytes > 0
    net.train()
    before = net._packs.bytes
    for _ in range(20):
        net.at(net.space.sample(generator))(x).sum().backward()
    assert net._packs.bytes == before


def test_copies_go_with_their_view():
    net, x = mlp().eval(), X
    with torch.no_grad():
        net.at(0.5)(x)
        assert net._packs.bytes > 0
        net._views.clear()
        gc.collect()
        assert net._packs.bytes == 0


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


@pytest.mark.slow
def test_threads():
    net, x = normed(widths=[0.25, 0.5, 1.0]), rand(2, 3, 4, 4)
    net.calibrate([rand(8, 3, 4, 4)])
    net.eval()
    expected = {w: net.extract(w)(x) for w in (0.25, 0.5, 1.0)}
    errors_seen, stop = [], threading.Event()

    def run(work):
        try:
            while not stop.is_set():
                work()
        except Exception as error:
            errors_seen.append(error)
            stop.set()

    def infer():
        for w, y in expected.items():
            with torch.no_grad():
                assert_close(net.at(w)(x), y, **TIGHT)

    def build():
        other = normed()
        assert [g.name for g in other.space.groups] == [g.name for g in net.space.groups]
        assert other.space.axes == net.space.axes

    jobs = [infer, infer, net.drop_views_, build, build, lambda: net.at(net.space.uniform(0.5))]
    threads = [threading.Thread(target=run, args=(work,)) for work in jobs]
    for t in threads:
        t.start()
    stop.wait(6)
    stop.set()
    for t in threads:
        t.join()
    assert not errors_seen, errors_seen[0]


# --- anything, in any order -----------------------------------------------------------------------------------------------------

KINDS, SIZES = ("residual", "dense", "gate", "plain"), (6, 4, 5, 3, 6)
IMAGE = rand(2, 3, 4, 4)


class Anything(RuleBasedStateMachine):
    """Users' actions on the wide network and on views, in any order."""

    def __init__(self):
        super().__init__()
        self.net = Elastic(randomized(RandomNet(KINDS, SIZES)), IMAGE)
        self.views, self.seed, self.handles = [], 0, []

    def parts(self):
        return [m for m in self.net.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    @rule(i=st.integers(0, 20), scale=st.floats(0.5, 2))
    def write(self, i, scale):
        with torch.no_grad():
            list(self.net.model.parameters())[i % 12].mul_(scale)

    @rule(i=st.integers(0, 20), scale=st.floats(0.5, 2))
    def hook(self, i, scale):
        part = self.parts()[i % len(self.parts())]
        self.handles.append(part.register_forward_hook(lambda m, a, o: o * scale))

    @precondition(lambda self: self.handles)
    @rule()
    def unhook(self):
        self.handles.pop().remove()

    @rule(i=st.integers(0, 20), learns=st.booleans())
    def freeze(self, i, learns):
        self.parts()[i % len(self.parts())].requires_grad_(learns)

    @rule(assign=st.booleans())
    def load(self, assign):
        self.seed += 1
        state = randomized(RandomNet(KINDS, SIZES), seed=self.seed).state_dict()
        self.net.model.load_state_dict(state, assign=assign)

    @rule(whole=st.booleans())
    def cast_there_and_back(self, whole):
        target = self.net if whole else self.net.model
        target.half()
        target.double()

    @rule(fused=st.booleans(), w=st.sampled_from([0.3, 0.5, 1.0]))
    def optimise(self, fused, w):
        out = self.net.at(w)(IMAGE)
        if out.requires_grad:
            optimizer = torch.optim.SGD(self.net.parameters(), 1e-3, fused=fused)
            out.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    @rule(i=st.integers(0, 20))
    def replace_parameter(self, i):
        part = self.parts()[i % len(self.parts())]
        part.weight = nn.Parameter(torch.randn_like(part.weight) * 0.3)

    @rule(i=st.integers(0, 20))
    def attribute(self, i):
        part = self.parts()[i % len(self.parts())]
        part.note = i

    @rule(w=st.sampled_from([0.3, 0.5, 1.0]), mode=st.booleans())
    def mode_of_a_view(self, w, mode):
        self.net.at(w).train(mode)

    @rule(w=st.sampled_from([0.3, 0.5]), i=st.integers(0, 20))
    def hook_on_a_view(self, w, i):
        view = self.net.at(w)
        part = [m for m in view.modules() if isinstance(m, nn.Conv2d)][i % 5]
        part.register_forward_hook(lambda m, a, o: o * 0)
        self.views.append(view)

    @rule(w=st.sampled_from([0.3, 0.5]))
    def write_to_a_view(self, w):
        with torch.no_grad():
            for p in self.net.at(w).parameters():
                p.mul_(1.01)

    @rule(w=st.sampled_from([0.3, 0.5]))
    def load_into_a_view(self, w):
        view = self.net.at(w)
        view.load_state_dict({n: t * 0.9 for n, t in view.state_dict().items()})

    @rule(how=st.sampled_from([copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))]))
    def copy_the_network(self, how):
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.net = how(self.net)

    @rule(w=st.sampled_from([0.3, 0.5]))
    def copy_a_view(self, w):
        made = copy.deepcopy(self.net.at(w))
        assert_close(made(IMAGE), self.net.at(w)(IMAGE), **TIGHT)
        with torch.no_grad():
            for p in made.parameters():
                p.zero_()

    @invariant()
    def views_are_copies_made_now(self):
        for w in (0.3, 0.5, 1.0):
            view, small = self.net.at(w), self.net.extract(w)
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    expected = small(IMAGE)
                    assert_close(view(IMAGE), expected, **TIGHT)
                    assert_close(view.stem(IMAGE), small.stem(IMAGE), **TIGHT)
                    assert_close(RandomNet.forward(view, IMAGE), expected, **TIGHT)


Anything.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
TestAnything = Anything.TestCase
