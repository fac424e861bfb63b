"""Faults that users would have met, each found by trying; the fix must not get lost."""

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch import nn

from anywidth import Elastic, Width, errors, reorder_

X = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))


class Cat(nn.Module):
    """Its last layer reads two prefixes: at narrow widths that weight is gathered."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 8), nn.Linear(10, 8), nn.Linear(16, 4)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)], 1))


@pytest.mark.parametrize("grad", [True, False])
def test_fused_optimisers_do_not_leave_old_weights_in_views(grad):
    net = Elastic(Cat(), X[:1])
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.05, fused=True)  # does not count in tensor versions
    with torch.no_grad():
        net.eval().at(0.5)(X)
    for _ in range(3):
        optimiser.zero_grad()
        net.train().at(0.5)(X).pow(2).sum().backward()
        optimiser.step()
    with torch.set_grad_enabled(grad):
        seen = net.train(grad).at(0.5)(X)
    torch.testing.assert_close(seen, Elastic(net.model, X[:1]).extract(0.5)(X))


def test_an_update_between_forward_and_backward_is_noticed_by_autograd():
    net = Elastic(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)), X[:1])
    out = net.at(0.5)(X)
    with torch.no_grad():
        for p in net.model.parameters():
            p.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("name", ["b", "c"])
def test_writes_to_a_view_after_inference_reach_the_wide_network(name):
    net = Elastic(Cat(), X[:1]).eval()
    view = net.at(0.5)
    with torch.no_grad():
        view(X)
        getattr(view, name).weight.mul_(2.0)
        torch.testing.assert_close(view(X), net.extract(0.5)(X))


def test_torch_compile_of_a_view_renews_gathered_weights():
    net = Elastic(Cat(), X[:1])
    compiled = torch.compile(net.at(0.5), backend="eager")
    compiled(X)
    with torch.no_grad():
        net.model.c.weight.mul_(2.0)
    torch.testing.assert_close(compiled(X), net.extract(0.5)(X))


def test_torch_compile_and_export_do_not_skip_the_check_of_statistics():
    model = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    net = Elastic(model, X).eval()
    with pytest.raises(errors.StatisticsError, match="calibrate"):
        torch.compile(net.at(0.5), backend="eager")(X)
    with pytest.raises(errors.StatisticsError, match="calibrate"):
        torch.export.export(net.at(0.5), (X,), strict=False)


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.f1, self.f2, self.o = nn.Linear(10, 32), nn.Linear(32, 10), nn.Linear(10, 3)
        self.mlp = lambda x: self.f2(self.f1(x).relu())

    def forward(self, x):
        return self.o(self.mlp(x))


class Hooked(nn.Module):
    """A hook that is a method of the network and keeps a feature for later."""

    def __init__(self):
        super().__init__()
        self.body, self.o = nn.Linear(10, 16), nn.Linear(16, 3)
        self.body.register_forward_hook(self.keep)

    def keep(self, module, args, out):
        self.feature = out

    def forward(self, x):
        self.body(x)
        return self.o(self.feature)


@pytest.mark.parametrize("kind", [Closure, Hooked])
def test_closures_and_hooks_run_in_the_view_not_in_the_wide_network(kind):
    model = kind().eval()
    net = Elastic(model, X[:1])
    assert not hasattr(model, "feature")  # tracing leaves nothing behind
    assert net.space.groups
    small = net.extract(0.25)
    before = small(X)
    torch.testing.assert_close(net.at(0.25)(X), before)
    assert not torch.allclose(before, model(X))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    torch.testing.assert_close(small(X), before)


def test_a_module_reached_in_a_way_that_cannot_follow_keeps_its_width():
    held = {}

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(10, 8), nn.Linear(8, 4)

        def forward(self, x):
            return held["b"](self.a(x))

    model = Holder()
    held["b"] = model.b
    net = Elastic(model, X[:1])
    assert net.space.groups == ()
    assert any("of the wide network itself" in f.reason for f in net.space.frozen)


@pytest.mark.parametrize(("scan", "ok"), [(lambda y: y.cumsum(-1), False), (lambda y: y.relu(), True)])
def test_running_sums_along_channels_fix_their_order(scan, ok):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(10, 16), nn.Linear(16, 3)

        def forward(self, x):
            return self.o(scan(self.a(x)))

    net = Elastic(Net(), X[:1])
    assert net.space.groups[0].permutable is ok
    if not ok:
        with pytest.raises(errors.WidthError, match="routes these channels by position"):
            reorder_(net, {net.space.groups[0].name: list(range(15, -1, -1))})


def test_frozen_norms_of_the_wide_network_are_frozen_too():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    net = Elastic(model, torch.randn(2, 3, 4, 4), norm="frozen").train()
    before = model[1].running_mean.clone()
    net(torch.randn(2, 3, 4, 4) + 5)
    assert torch.equal(before, model[1].running_mean)


def test_a_calibration_that_fails_leaves_everything_as_it_was():
    images = torch.randn(4, 3, 5, 5)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    net = Elastic(model, images, widths=[0.5, 1.0])
    net.calibrate([images])
    before = {n: t.clone() for n, t in net.state_dict().items()}

    def breaks():
        yield images + 1
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        net.calibrate(breaks(), widths=[0.5, 0.3, 1.0])
    assert list(net.widths) == [0.5, 1.0]
    assert net.has_statistics(0.5)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[n]) for n, t in before.items())


class Auxiliary(nn.Module):
    """A head that runs in training only, with a batch norm of its own (GoogLeNet, Inception v3)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.aux, self.aux_norm, self.aux_head = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.norm(self.stem(x)).relu()
        return (self.head(y), self.aux_head(self.aux_norm(self.aux(y)))) if self.training else self.head(y)


def test_norms_of_training_heads_do_not_keep_a_calibrated_width_from_evaluation():
    net = Elastic(Auxiliary(), X)
    assert {"stem", "aux"} <= {g.name for g in net.space.groups}
    net.calibrate([X], widths=[0.5])
    net.eval()
    torch.testing.assert_close(net.at(0.5)(X), net.extract(0.5)(X))
    assert len(net.train().at(0.5)(X)) == 2


def test_costs_of_a_model_that_changed_are_refused():
    net = Elastic(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 4)), X[:1])
    net.params(0.5)
    net.model[1] = nn.Linear(20, 7)
    with pytest.raises(errors.TraceError, match="is not what it was when the network was traced"):
        net.params(0.5)


def test_heads_taken_one_by_one_with_slices():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o, self.h = nn.Linear(10, 24), nn.Linear(24, 3), 6

        def forward(self, x):
            y = self.a(x)
            d = y.shape[-1] // self.h
            return self.o(torch.cat([y[:, i * d : (i + 1) * d] for i in range(self.h)], -1))

    net = Elastic(Heads(), X[:1])
    torch.testing.assert_close(net.at(0.5)(X), net.extract(0.5)(X))


def test_state_dict_holds_statistics():
    images = torch.randn(4, 3, 5, 5)

    def new():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
        return Elastic(model, images, widths=[0.5, 1.0])

    net, other = new(), new()
    net.calibrate([images])
    other.load_state_dict(net.state_dict())
    assert other.has_statistics(0.5)
    torch.testing.assert_close(other.eval().at(0.5)(images), net.eval().at(0.5)(images))


def test_a_network_with_an_lstm_runs_at_any_width():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.lstm, self.leave = (
                nn.Linear(10, 12),
                nn.LSTM(12, 16, batch_first=True),
                nn.Linear(16, 3),
            )

        def forward(self, x):
            return self.leave(self.lstm(self.enter(x))[0])

    x = torch.randn(2, 5, 10)
    net = Elastic(Net(), x)
    small = net.extract(0.5)
    torch.testing.assert_close(net.at(0.5)(x), small(x))
    assert sum(p.numel() for p in small.parameters()) == net.params(0.5)


BAD = {
    "units of zero": lambda net: net.at(Width(names=net.space.names, kept=(0,))),
    "text for channels": lambda net: net.space.width({"0": "13"}),
    "true for channels": lambda net: net.space.width({"0": True}),
    "array out of range": lambda net: net.macs(np.array([[99]])),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_widths_are_refused(case):
    net = Elastic(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 4)), X[:1])
    with pytest.raises(errors.WidthError, match=r"cannot keep|cannot have|outside 1..size"):
        BAD[case](net)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"divisor": 0}, "at least 1"), ({"minimum": -1}, "at least 1"), ({"widths": 0.5}, "give a list")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(errors.WidthError, match=message):
        Elastic(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 4)), X[:1], **arguments)


def test_models_and_examples_that_are_none():
    with pytest.raises(errors.TraceError, match=r"takes an nn\.Module"):
        Elastic(lambda x: x, X)  # type: ignore[arg-type]
    with pytest.raises(errors.TraceError, match="example_inputs is missing"):
        Elastic(nn.Linear(10, 3))
    space = Elastic(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 4)), X[:1]).space
    with pytest.raises(errors.TraceError, match="is not of this"):
        Elastic(nn.Linear(10, 3), X, space=space)


def test_one_name_to_freeze():
    net = Elastic(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 8), nn.Linear(8, 2)), X[:1], freeze="0")
    assert [g.name for g in net.space.groups] == ["1"]


def test_twelve_widths_of_a_class_of_torch_compile_to_twelve_graphs():
    """Dynamo skips frames under torch's own file names and would compile one shared wrapper instead."""
    counter = torch._dynamo.testing.CompileCounter()
    net = Elastic(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)), X[:1])
    views = net.compile([i / 12 for i in range(1, 13)], backend=counter)
    for w, view in views.items():
        torch.testing.assert_close(view(X), net.extract(w)(X))
    assert counter.frame_count == 12


class Cached(nn.Module):
    """Keeps a bias of its weights in evaluation, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.b = nn.Linear(10, 8), nn.Parameter(torch.rand(8)), nn.Linear(8, 2)
        self.cache: dict[str, torch.Tensor] = {}

    def forward(self, x):
        if not self.training and "scale" not in self.cache:
            self.cache["scale"] = self.scale * 2
        return self.b(self.a(x) * (self.scale * 2 if self.training else self.cache["scale"]))


def test_a_cache_that_is_empty_at_first_is_each_networks_own():
    model = Cached().eval()
    expected = 2 * (model.a(X[:1]) * model.scale) @ model.b.weight.T + model.b.bias
    net = Elastic(model, X[:1]).eval()
    net.at(0.5)(X[:1])
    torch.testing.assert_close(net(X[:1]), expected)
    assert net.extract(0.5)(X[:1]).shape == (1, 2)
