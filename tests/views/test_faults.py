"""Faults of live views that users would have met, each found by trying; the fix must not get lost."""

import copy
import io
import weakref
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.testing import assert_close

from anywidth import Elastic, errors
from oracles import TIGHT, rand, randomized

X = rand(5, 4)


class Net(nn.Module):
    """`extra` may be anything that a forward reaches; `c` reads two prefixes, so that its weight is gathered."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 6), nn.Linear(14, 3)
        self.extra, self.mask, self.temperature = None, None, 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        if self.extra is not None:
            y = y * self.scale(self.extra)
        y = self.c(y) / self.temperature
        return y if self.mask is None else y * self.mask

    def scale(self, extra) -> Tensor:
        found = extra() if isinstance(extra, weakref.ref) else extra
        found = next(iter(found)) if isinstance(found, set) else getattr(found, "part", found)
        return found.weight.norm()


def net(**options) -> Elastic:
    return Elastic(randomized(Net()), X, **{"widths": [0.5, 1.0], **options})


def same(net: Elastic, x: Tensor = X) -> None:
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for w in (0.5, 1.0):
                assert_close(net.at(w)(x), net.extract(w)(x), **TIGHT)


@dataclass
class Parts:
    part: nn.Module


@pytest.mark.parametrize("hold", [Parts, lambda m: SimpleNamespace(part=m), lambda m: {m}, weakref.ref])
def test_modules_in_objects_are_those_of_the_view(hold):
    made = net()
    made.model.extra = hold(made.model.a)
    view = made.at(0.5)
    out = view(X)
    with torch.no_grad():
        made.model.a.weight[4:] = torch.nan
    assert_close(view(X), out)
    assert_close(made.extract(0.5)(X), out, **TIGHT)


class Wrapped:
    def __init__(self, function):
        self.function = function

    def __call__(self, *args):
        return 2 * self.function(*args)

    def method(self, *args):
        return 3 * self.function(*args)


@pytest.mark.parametrize("wrap", [Wrapped, lambda f: Wrapped(f).method, lambda f: (lambda w: lambda x: w(x))(Wrapped(f)), lambda f: partial(Wrapped(f))])  # fmt: skip
def test_a_forward_in_an_object_runs_the_view(wrap):
    made = net()
    view = made.at(0.5)
    plain = view(X)
    made.model.forward = wrap(made.model.forward)
    for v in (view, made.at(0.5), made.extract(0.5)):
        assert_close(v(X) / plain, torch.full_like(plain, round((v(X) / plain)[0, 0].item())))
        assert not torch.allclose(v(X), made.model(X))


def test_accelerates_conversion_of_outputs():
    utils = pytest.importorskip("accelerate.utils")
    made = net()
    view = made.at(0.5)
    plain = view(X)
    made.model.forward = utils.convert_outputs_to_fp32(made.model.forward)
    assert_close(view(X), plain)
    assert_close(made.at(0.5)(X), plain)


def test_a_part_that_someone_holds_is_not_taken_for_the_present_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.l = nn.Embedding(10, 8), nn.Linear(8, 8)

        def forward(self, i: Tensor) -> Tensor:
            return nn.functional.linear(self.l(self.e(i)).relu(), self.e.weight)

    i = torch.tensor([[1, 2, 3]])
    made = Elastic(randomized(Tied()), i)
    view, model = made.at(0.5), made.model
    model.requires_grad_(False)
    keep = [view.e.weight, dict(view.named_parameters())]
    model.requires_grad_(True)
    with torch.inference_mode():
        keep.append(view.e.weight)
    small = made.extract(0.5)
    view(i).square().sum().backward()
    small(i).square().sum().backward()
    assert_close(model.e.weight.grad[:, :4], small.e.weight.grad, **TIGHT)
    sum(p.sum() for p in view.parameters()).backward()
    assert all(p.grad is not None for p in model.parameters())
    keep.append(dict(view.named_parameters()))
    model.e.weight.data = torch.randn(10, 8, dtype=torch.float64)
    assert_close(view(i), made.extract(0.5)(i), **TIGHT)
    model.float()
    assert_close(view(i), made.extract(0.5)(i))


class Memory(nn.Module):
    """Writes to its buffers and weights when it runs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 6), nn.Linear(14, 3)
        self.register_buffer("table", torch.ones(3, 14))
        self.register_buffer("mean", torch.ones(14))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        with torch.no_grad():
            self.table.mul_(0.5)
            self.mean.mul_(0.9).add_(y.mean(0), alpha=0.1)
        return self.c(y * self.table.sum(0) + self.mean)


@pytest.mark.parametrize("training", [True, False])
def test_buffers_that_a_forward_writes_to(training):
    made = Elastic(randomized(Memory()), X).train(training)
    assert made.space.groups
    view, small = made.at(0.5), made.extract(0.5)
    for _ in range(3):
        with torch.no_grad():
            assert_close(view(X), small(X), **TIGHT)
    assert_close(made.extract(0.5).table, small.table)
    assert_close(made.extract(0.5).mean, small.mean)


def test_what_a_user_sets_later_is_seen():
    made = net()
    view = made.at(0.5)
    view(X)
    made.model.mask = torch.zeros(3, dtype=torch.float64)
    assert not view(X).any()
    same(made)
    made.model.mask = None
    made.model.temperature = torch.tensor(4.0, dtype=torch.float64)
    same(made)
    assert_close(view(X), made.extract(0.5)(X), **TIGHT)


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o, self.cache = nn.Linear(4, 8), nn.Linear(8, 3), []

    def forward(self, x: Tensor) -> Tensor:
        if not self.cache:
            self.cache.append(self.a.weight.detach().norm())
        return self.o(self.a(x) * self.cache[0])


def test_lists_of_the_wide_network_do_not_hand_on_tensors():
    made = Elastic(randomized(Lists()), X)
    assert made.model.cache == []  # tracing leaves nothing behind
    made.model(X)
    assert_close(made.at(0.5)(X), made.extract(0.5)(X), **TIGHT)
    assert not torch.allclose(made.at(0.5)(X) / made.at(0.5).o.bias.new_ones(1), made.model(X))


def test_gradients_of_a_views_parameters_are_parts_of_the_wide_ones():
    made = net()
    view = made.at(0.5)
    (100 * view(X).sum()).backward()
    nn.utils.clip_grad_norm_(view.parameters(), 1.0)
    total = nn.utils.clip_grad_norm_(made.parameters(), 1e9)
    assert_close(total, torch.ones_like(total), rtol=1e-5, atol=1e-5)
    nn.utils.clip_grad_value_(view.parameters(), 1e-3)
    assert max(p.grad.abs().max() for p in made.parameters()) <= 1e-3
    view.zero_grad()
    assert all(p.grad is None for p in made.parameters())


def test_zero_grad_of_a_view_with_norms_of_its_own():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    made = Elastic(randomized(model), X, widths=[0.5, 1.0], norm="switchable")
    made.at(0.5)(X).square().sum().backward()
    assert any(p.grad is not None for p in made.norms.parameters())
    made.at(0.5).zero_grad()
    assert all(p.grad is None for p in made.parameters())


def test_copies_of_a_width_that_was_never_measured():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    made = Elastic(randomized(model), X, widths=[0.5]).eval()
    small = copy.deepcopy(made.at(0.5))
    assert_close(small(X), made.extract(0.5)(X), **TIGHT)
    assert_close(small[1].running_mean, made.model[1].running_mean[:4])


def test_data_and_vectors_are_written_through():
    made = net()
    view = made.at(0.5)
    for layer in (view.a, view.c):
        layer.weight.data = torch.full_like(layer.weight, 0.5)
        assert (made.extract(0.5).get_submodule("a" if layer is view.a else "c").weight == 0.5).all()
    vector = torch.arange(sum(p.numel() for p in view.parameters())).double()
    nn.utils.vector_to_parameters(vector, view.parameters())
    assert_close(nn.utils.parameters_to_vector(made.extract(0.5).parameters()).detach(), vector)
    with pytest.raises(errors.ViewError, match="would never run"):
        view.a.weight.register_hook(print)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_keep_no_weights(kind):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.r, self.o = nn.Linear(4, 8), kind(8, 8, bidirectional=True), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.r(self.a(x))[0])

    made = Elastic(randomized(Recurrent()), rand(2, 3, 4))
    view = made.at(0.5)
    view(rand(2, 3, 4))
    made.model.r.weight_hh_l0.data = torch.randn_like(made.model.r.weight_hh_l0)
    made.model.a.weight.data = torch.randn_like(made.model.a.weight)
    assert_close(view(rand(2, 3, 4)), made.extract(0.5)(rand(2, 3, 4)), **TIGHT)
    made.model.float()
    assert_close(view(rand(2, 3, 4).float()), made.extract(0.5)(rand(2, 3, 4).float()))


def test_a_size_that_is_written_to_a_view_stays_there():
    made = net()
    view = made.at(0.5)
    view.a.out_features = 99
    assert made.at(0.5) is not view
    assert made.at(0.5).a.out_features == 4


def test_a_leaf_of_another_class():
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    made = net()
    before = made.at(1.0)(X)
    made.model.a.__class__ = Doubled
    assert not torch.allclose(made.at(1.0)(X), before)
    assert_close(made.at(1.0)(X), made.model(X), **TIGHT)
    same(made)


class Assigning(nn.Module):
    """Attributes of the class that methods assign to instances."""

    scale, table = 2.0, None

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(4, 8), nn.Linear(8, 3)

    def set_scale(self, value):
        self.scale = value
        self.helper = self.helper

    def helper(self, x):
        return x * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.helper(self.a(x)))


def test_attributes_of_the_class():
    made = Elastic(randomized(Assigning()), X)
    assert made.space.groups
    view = made.at(0.5)
    assert (view.scale, view.table) == (2.0, None)
    same(made)
    made.model.set_scale(5.0)
    assert view.scale == made.at(0.5).scale == 5.0
    same(made)
    assert_close(view(X), made.extract(0.5)(X), **TIGHT)


def test_views_of_language_models_generate():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=31,
        pad_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.tensor([[1, 2, 3]])
    made = Elastic(model, {"input_ids": ids, "use_cache": False}).eval()
    expected = made.extract(0.5).generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(made.at(0.5).generate(ids, max_new_tokens=4, do_sample=False), expected)


def test_the_state_of_a_view_is_plain_tensors():
    made = net()
    view = made.at(0.5)
    state = view.state_dict()
    assert all(type(t) is Tensor for t in state.values())
    file = io.BytesIO()
    torch.save(copy.deepcopy(state), file)
    file.seek(0)
    assert_close(dict(torch.load(file, weights_only=True)), dict(state))
    small = made.extract(0.5)
    small.load_state_dict(state, assign=True)
    view.load_state_dict(made.at(0.5).state_dict(), assign=True)
    assert_close(small(X), view(X), **TIGHT)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch, about itself
def test_transforms_over_the_wide_parameters():
    class AtHalf(nn.Module):
        def __init__(self, net: Elastic):
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net.at(0.5)(x)

    made = net().eval()
    wrapper, tensors = AtHalf(made), {n: p.detach() for n, p in AtHalf(made).named_parameters()}
    with torch.no_grad():
        made.at(0.5)(X)
        stacked = {n: torch.stack([t, 2 * t]) for n, t in tensors.items()}
        both = vmap(lambda p: functional_call(wrapper, p, (X,)))(stacked)
        assert_close(both[0], made.at(0.5)(X), **TIGHT)
        out, change = jvp(lambda p: functional_call(wrapper, p, (X,)), (tensors,), (tensors,))
        assert_close(out, both[0], **TIGHT)
        assert change.abs().sum() > 0


def test_a_class_that_cannot_be_combined():
    class Slotted(nn.Linear):
        __slots__ = ("more",)

    with pytest.raises(errors.TraceError, match="views of Slotted cannot be made"):
        Elastic(nn.Sequential(Slotted(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
