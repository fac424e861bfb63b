"""Views: ordinary modules that alias the wide network, whatever is done to either."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from anywidth import Elastic, errors
from anywidth.views import AxisPlan, Cut, cut, is_view
from anywidth.views.slices import Slice
from oracles import (
    TIGHT,
    assert_narrow,
    assert_same_grads,
    expected_grads,
    fill_,
    hand_slice,
    positions,
    rand,
    randomized,
    scalar,
)
from random_nets import RandomNet, group_names, nets, where_kept

IMAGE = (2, 3, 4, 4)
KINDS = ("residual", "batchnorm", "dense", "gate", "depthwise", "plain")  # with gathered and strided axes
WIDE, NARROW, OTHER = (6, 5, 4, 3, 6), (3, 2, 2, 1, 4), (4, 4, 3, 3, 5)


def elastic(**options) -> Elastic:
    return Elastic(randomized(RandomNet(KINDS, WIDE)), rand(*IMAGE), **options)


def width(net: Elastic, sizes=NARROW, kinds=KINDS):
    return net.space.width(dict(zip(group_names(kinds), sizes, strict=True)))


def where(sizes=NARROW):
    return where_kept(KINDS, WIDE, [range(s) for s in sizes])


def compact(net: Elastic, sizes=NARROW) -> nn.Module:
    """What the view must be, from the wide weights as they are now."""
    return fill_(RandomNet(KINDS, sizes), net.model, where(sizes))


def assert_is_compact(net: Elastic, view: nn.Module, sizes=NARROW) -> None:
    view_training = view.training
    other = compact(net, sizes).train(view_training)
    if not view_training:
        for mine, theirs in zip(view.modules(), other.modules(), strict=True):
            if isinstance(mine, nn.BatchNorm2d):
                theirs.running_mean.copy_(mine.running_mean)
                theirs.running_var.copy_(mine.running_var)
    assert_close(view(rand(*IMAGE)), other(rand(*IMAGE)), **TIGHT)


# --- laws on random networks -----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(nets())
def test_random_nets_at_random_widths_are_the_nets_built_narrow(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE))
    assert {g.name: g.size for g in net.space.groups} == dict(zip(group_names(kinds), sizes, strict=True))
    kept = [len(u) for u in units]
    assert_narrow(
        net, width(net, kept, kinds), RandomNet(kinds, kept), rand(*IMAGE), where_kept(kinds, sizes, units)
    )


@settings(max_examples=25)
@given(nets(prefix=False))
def test_extraction_of_any_units_is_hand_slicing(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE))
    w = net.space.width(dict(zip(group_names(kinds), units, strict=True)))
    net.eval()
    small = net.extract(w)
    other = fill_(RandomNet(kinds, [len(u) for u in units]), net.model, where_kept(kinds, sizes, units))
    assert {n: t.shape for n, t in small.state_dict().items()} == {
        n: t.shape for n, t in other.state_dict().items()
    }
    for n, t in other.state_dict().items():
        assert torch.equal(small.state_dict()[n], t), n
    assert_close(small(rand(*IMAGE)), other(rand(*IMAGE)), **TIGHT)
    assert repr(small) == repr(other)


@settings(max_examples=25)
@given(nets(widths=2))
def test_nested_widths_give_nested_views(drawn):
    kinds, sizes, (a, b) = drawn
    small = [range(min(len(p), len(q))) for p, q in zip(a, b, strict=True)]
    net = Elastic(RandomNet(kinds, sizes), torch.randn(*IMAGE))
    with torch.no_grad():  # every element of every tensor gets a number of its own
        for p in net.model.parameters():
            p.copy_(torch.arange(p.numel()).view(p.shape))
    narrow, wider = (width(net, [len(u) for u in units], kinds) for units in (small, a))
    assert narrow <= wider <= net.space.full
    inner, outer = net.at(narrow), net.at(wider)
    for (n, p), q, r in zip(
        inner.named_parameters(), outer.parameters(), net.model.parameters(), strict=True
    ):
        mine, theirs = p.detach().flatten(), q.detach().flatten()
        assert torch.isin(mine, theirs).all(), n
        assert theirs[torch.isin(theirs, mine)].equal(mine), n  # in the same order
        assert torch.isin(theirs, r.detach()).all(), n


@settings(max_examples=25)
@given(nets())
def test_gradients_are_those_of_slicing_in_the_graph(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE)).train()
    shell = RandomNet(kinds, [len(u) for u in units]).double().train()
    kept = where_kept(kinds, sizes, units)
    wide = dict(net.model.named_parameters())
    sliced = {n: hand_slice(wide[n], positions(n, wide[n], p, kept)) for n, p in shell.named_parameters()}
    expected = torch.autograd.grad(scalar(functional_call(shell, sliced, rand(*IMAGE))), list(wide.values()))
    scalar(net.at(width(net, [len(u) for u in units], kinds))(rand(*IMAGE))).backward()
    for (n, p), g in zip(wide.items(), expected, strict=True):
        assert_close(p.grad, g, rtol=1e-12, atol=1e-12, msg=lambda text, n=n: f"{n}: {text}")


# --- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_survive_zero_grad_of_either_kind(to_none):
    net, x = elastic(), rand(*IMAGE)
    view, other = net.at(width(net)), compact(net)
    scalar(other(x)).backward()
    expected = expected_grads(net.model, other, where())
    for _ in range(3):
        net.zero_grad(set_to_none=to_none)
        scalar(view(x)).backward()
        assert_same_grads(net.model, expected)
        grads = {n: p.grad for n, p in other.named_parameters()}
        assert_close(
            {n: p.grad for n, p in view.named_parameters()}, grads, **TIGHT
        )  # parts of the wide ones


def test_two_widths_in_one_backward_add_up():
    net, x = elastic(), rand(*IMAGE)
    parts = []
    for sizes in (NARROW, OTHER):
        other = compact(net, sizes)
        scalar(other(x)).backward()
        parts.append(expected_grads(net.model, other, where(sizes)))
    loss = scalar(net.at(width(net, NARROW))(x)) + scalar(net.at(width(net, OTHER))(x))
    loss.backward()
    assert_same_grads(net.model, {n: parts[0][n] + parts[1][n] for n in parts[0]})


def test_one_width_twice_in_one_backward_adds_up():
    net, x, y = elastic(), rand(*IMAGE), rand(*IMAGE, seed=5)
    view, other = net.at(width(net)), compact(net)
    (scalar(other(x)) + scalar(other(y))).backward()
    (scalar(view(x)) + scalar(view(y))).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, where()))


def test_gradients_of_the_wide_network_and_of_views_add_up():
    net, x = elastic(), rand(*IMAGE)
    other, full = compact(net), copy.deepcopy(net.model)
    scalar(other(x)).backward()
    scalar(full(x)).backward()
    expected = expected_grads(net.model, other, where())
    for n, p in full.named_parameters():
        expected[n] += p.grad
    scalar(net(x)).backward()
    scalar(net.at(1.0)(x)).backward()
    scalar(net.at(width(net))(x)).backward()
    for n, p in full.named_parameters():
        expected[n] += p.grad
    assert_same_grads(net.model, expected)


def test_the_gradient_of_a_whole_parameter_is_not_shared_with_the_graph():
    """The full-width view hands its gradient over: adding to it later must not change another tensor."""
    net = Elastic(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double(), rand(2, 3))
    seen = []
    net.at(1.0)[1].bias.register_hook(seen.append)
    net.at(1.0)(rand(2, 3)).sum().backward()
    first = seen[0].clone()
    net.at(1.0)(rand(2, 3)).sum().backward()
    assert torch.equal(seen[0], first)
    assert torch.equal(net.model[1].bias.grad, 2 * first)


def test_parameters_that_need_no_gradient_get_none():
    net = elastic()
    for p in net.model.stem.parameters():
        p.requires_grad_(False)
    net.drop_views_()
    view = net.at(width(net))
    assert not view.stem.weight.requires_grad
    scalar(view(rand(*IMAGE))).backward()
    assert net.model.stem.weight.grad is None
    assert net.model.head.weight.grad is not None


def test_freezing_parameters_reaches_views_made_before():
    net = elastic()
    view = net.at(width(net))
    for learns in (False, True):
        net.model.stem.requires_grad_(learns)
        net.zero_grad()
        scalar(view(rand(*IMAGE))).backward()
        assert (net.model.stem.weight.grad is not None) == learns
        assert net.at(width(net)) is view


def test_checkpointed_and_autocast_backward():
    net, x = elastic(), rand(*IMAGE)
    view, other = net.at(width(net)), compact(net)
    scalar(other(x)).backward()
    scalar(checkpoint(view, x, use_reentrant=False)).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, where()))
    net = net.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net.at(width(net))(x.float())
    out.float().sum().backward()
    assert net.model.stem.weight.grad.dtype == torch.float32


def test_gradients_of_inputs_pass_through():
    net, x = elastic(), rand(*IMAGE).requires_grad_()
    y = x.detach().clone().requires_grad_()
    scalar(net.at(width(net))(x)).backward()
    scalar(compact(net)(y)).backward()
    assert_close(x.grad, y.grad, **TIGHT)


# --- weights that change -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimiser", [partial(torch.optim.SGD, lr=0.1), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)]
)
@pytest.mark.parametrize("foreach", [True, False])
def test_optimiser_steps_are_seen_by_views(optimiser, foreach):
    net = elastic()
    step = optimiser(net.parameters(), foreach=foreach)
    view, other = net.at(width(net)), net.at(width(net, OTHER))
    for _ in range(3):
        step.zero_grad()
        scalar(view(rand(*IMAGE))).backward()
        step.step()
        assert_is_compact(net, view)
        assert_is_compact(net, other, OTHER)
    assert net.at(width(net)) is view


def test_prefixes_share_memory_with_the_wide_network():
    net = elastic()
    view = net.at(width(net))
    assert view.stem.weight.data_ptr() == net.model.stem.weight.data_ptr()
    with torch.no_grad():
        view.stem.weight[0, 0] = 42
    assert (net.model.stem.weight[0, 0] == 42).all()


def test_load_state_dict_in_place_is_seen_by_views():
    net = elastic()
    view = net.at(width(net))
    view(rand(*IMAGE))
    net.model.load_state_dict(randomized(RandomNet(KINDS, WIDE), seed=9).state_dict())
    assert_is_compact(net, view)


def test_load_state_dict_with_assign_is_seen_by_views():
    net = elastic()
    view = net.at(width(net))
    net.model.load_state_dict(randomized(RandomNet(KINDS, WIDE), seed=9).state_dict(), assign=True)
    assert_is_compact(net, view)
    assert net.at(width(net)) is view


@pytest.mark.parametrize("move", [lambda m: m.float(), lambda m: m.to(torch.float32), lambda m: m.to("meta")])
@pytest.mark.parametrize("whole", [True, False])
def test_views_follow_a_network_that_is_moved_or_cast(move, whole):
    net = elastic()
    view = net.at(width(net))
    move(net if whole else net.model)
    wide = net.model.stem.weight
    for v in (view, net.at(width(net))):
        assert (v.stem.weight.dtype, v.stem.weight.device) == (wide.dtype, wide.device)
        out = v(rand(*IMAGE).to(wide))
        assert (out.dtype, out.device) == (wide.dtype, wide.device)


def test_views_follow_a_replaced_parameter():
    net = elastic()
    view = net.at(width(net))
    net.model.head.bias = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert_is_compact(net, view)


def test_a_replaced_module_makes_views_stale():
    net = elastic()
    view = net.at(width(net))
    net.model.head = nn.Linear(*net.model.head.weight.shape[::-1]).double()
    with pytest.raises(errors.StaleViewError, match=r"Call net.at\(width\) again"):
        view(rand(*IMAGE))
    assert_is_compact(net, net.at(width(net)))


def test_casting_to_the_same_type_keeps_views():
    net = elastic()
    view = net.at(width(net))
    net.double()
    assert_is_compact(net, net.at(width(net)))
    assert_is_compact(net, view)


# --- evaluation: packed copies, gathered axes ----------------------------------------------------------------------------


@pytest.fixture
def ready() -> Elastic:
    """With statistics at NARROW, in evaluation mode."""
    net = elastic()
    net.list_width_("small", width(net))
    net.calibrate([rand(8, 3, 4, 4)], widths=["small"])
    return net.eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_packed_weights_follow_every_update(ready, mode):
    view = ready.at("small")
    for seed in range(3):
        with mode():
            assert_is_compact(ready, view)
            assert_is_compact(ready, view)
        with torch.no_grad():
            for p in ready.model.parameters():
                p.add_(rand(*p.shape, seed=seed))


def test_packed_weights_do_not_outlive_evaluation(ready):
    view, x = ready.at("small"), rand(*IMAGE)
    step = torch.optim.SGD(ready.parameters(), lr=0.1)
    for _ in range(2):
        with torch.no_grad():
            assert_is_compact(ready, ready.eval().at("small"))
        ready.train()
        assert ready.at("small") is view
        step.zero_grad()
        scalar(view(x)).backward()
        other = compact(ready)
        scalar(other(x)).backward()
        assert_same_grads(ready.model, expected_grads(ready.model, other, where()))
        step.step()
        with torch.inference_mode():
            assert_is_compact(ready, ready.eval().at("small"))
        assert_is_compact(ready, view)  # evaluation with gradients
        scalar(view(x)).backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_view_first_made_in_inference_can_be_trained(mode):
    net, x = elastic(), rand(*IMAGE)
    with mode():
        view = net.at(width(net))
        view(x)
    other = compact(net)
    scalar(other(x)).backward()
    scalar(view(x)).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, where()))


def test_loading_into_a_packed_view_loads_into_the_wide_network(ready):
    view = ready.at("small")
    with torch.no_grad():
        view(rand(*IMAGE))
    state = {n: torch.full_like(t, 0.25) for n, t in view.state_dict().items() if t.is_floating_point()}
    view.load_state_dict(state, strict=False)
    assert (ready.model.stem.weight[:3] == 0.25).all()
    assert (ready.model.stem.weight[3:] != 0.25).all()
    with torch.no_grad():
        assert_is_compact(ready, view)
        assert (compact(ready).head.weight == 0.25).all()


def test_state_dict_of_a_view_is_current_after_an_update():
    net = elastic()
    view = net.at(width(net))
    with torch.no_grad():
        for p in net.model.parameters():
            p.mul_(2)
    expected = compact(net).state_dict()
    got = view.state_dict()
    for n, _ in view.named_parameters():
        assert torch.equal(got[n], expected[n]), n


# --- copies -----------------------------------------------------------------------------------------------------------------


def copies(view: nn.Module) -> dict[str, nn.Module]:
    file = io.BytesIO()
    torch.save(view, file)
    file.seek(0)
    return {
        "deepcopy": copy.deepcopy(view),
        "pickle": pickle.loads(pickle.dumps(view)),
        "torch.save": torch.load(file, weights_only=False),
    }


def test_copies_of_a_view_stand_alone():
    net = elastic()
    view = net.at(width(net))
    for name, made in copies(view).items():
        assert type(made) is RandomNet, name
        assert not any(map(is_view, made.modules())), name
        assert not set(vars(made)) - set(vars(RandomNet(KINDS, NARROW))), name
        assert_is_compact(net, made)
        scalar(made(rand(*IMAGE))).backward()
        assert all(p.grad is not None for p in made.parameters()), name
        assert all(p.grad is None for p in net.parameters()), name
        with torch.no_grad():
            for p in made.parameters():
                p.zero_()
        assert_is_compact(net, view)
        assert not next(iter(made.children())).weight.any()
        again = copy.deepcopy(made)
        assert_close(again(rand(*IMAGE)), made(rand(*IMAGE)))


def test_a_copy_is_made_from_weights_as_they_are():
    net = elastic()
    view = net.at(width(net))
    view(rand(*IMAGE))
    with torch.no_grad():
        for p in net.model.parameters():
            p.mul_(1.5)
    for made in copies(view).values():
        assert_is_compact(net, made)


def test_a_copy_of_a_packed_view(ready):
    view = ready.at("small")
    with torch.no_grad():
        view(rand(*IMAGE))
        for p in ready.model.parameters():
            p.mul_(1.5)
        for name, made in copies(view).items():
            for n, p in made.named_parameters():
                assert torch.equal(p, compact(ready).get_parameter(n)), (name, n)


def big() -> Elastic:
    return Elastic(
        nn.Sequential(nn.Linear(4, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 4)), torch.randn(1, 4)
    )


def test_saved_views_are_small():
    net = big()
    view = net.at(net.space.width({"0": 8, "1": 8}))
    for value in (view, view.state_dict(), net.extract(net.space.width({"0": 8, "1": 8}))):
        file = io.BytesIO()
        torch.save(value, file)
        assert file.tell() < 20_000
    assert len(pickle.dumps(view)) < 20_000


def test_copies_do_not_mention_this_package():
    net = elastic()
    for blob in (pickle.dumps(net.at(width(net))), pickle.dumps(net.extract(width(net)))):
        assert b"anywidth" not in blob


def test_extract_owns_its_tensors():
    net = elastic()
    for w in (width(net), 1.0):
        small = net.extract(w)
        wide = {t.untyped_storage().data_ptr() for t in net.state_dict(keep_vars=True).values()}
        assert not wide & {t.untyped_storage().data_ptr() for t in small.state_dict(keep_vars=True).values()}
        assert all(
            p.is_contiguous() and p.untyped_storage().nbytes() == p.numel() * 8 for p in small.parameters()
        )


# --- the module tree ---------------------------------------------------------------------------------------------------------


def test_at_returns_the_same_object_until_something_changes():
    net = elastic()
    first = net.at(0.5)
    assert net.at(0.5) is first
    assert net.at(net.space.uniform(0.5)) is first
    assert net.at(0.25) is not first
    net.drop_views_()
    assert net.at(0.5) is not first


def test_old_views_are_let_go():
    net = elastic()
    first = net.at(0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        net.at(net.space.sample(generator))
    assert net.at(0.5) is not first
    assert_is_compact(net, first, [g.size // 2 + g.size % 2 for g in net.space.groups])  # it still works


def test_views_take_the_mode_of_the_network():
    net = elastic()
    net.eval()
    net.model.blocks[1].train()
    view = net.at(width(net))
    assert [m.training for m in view.modules()] == [m.training for m in net.model.modules()]
    net.train()
    assert all(m.training for m in net.at(width(net)).modules())


def test_the_type_and_names_are_the_models():
    net = elastic()
    view = net.at(width(net))
    assert isinstance(view, RandomNet)
    assert type(view).__name__ == "RandomNet"
    assert [n for n, _ in view.named_modules()] == [n for n, _ in net.model.named_modules()]
    assert list(view.state_dict()) == list(net.model.state_dict())
    assert view.stem is not net.model.stem
    assert all(isinstance(p, nn.Parameter) and p.grad_fn is not None for p in view.parameters())


def test_parameter_classes_survive_in_copies():
    class Special(nn.Parameter):
        pass

    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight = Special(model[0].weight.data)
    assert type(Elastic(model, torch.randn(1, 3)).extract(0.5)[0].weight) is Special


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


def test_hooks_on_a_view_do_not_reach_the_wide_network():
    net = elastic()
    view = net.at(width(net))
    seen = []
    view.register_forward_pre_hook(lambda m, args: seen.append("view"))
    net(rand(*IMAGE))
    assert seen == []
    view(rand(*IMAGE))
    assert seen == ["view"]


def test_buffers_that_no_width_changes_are_shared():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.b(self.a(x))

    net = Elastic(Counting(), torch.randn(2, 3))
    assert net.model.calls == 0  # tracing and trying put it back
    net.at(0.5)(torch.randn(2, 3))
    net.at(1.0)(torch.randn(2, 3))
    assert net.model.calls == 2
    assert net.extract(0.5).calls == 2


def test_channels_last_weights_stay_channels_last():
    net = elastic()
    net.model.to(memory_format=torch.channels_last)
    assert_narrow(
        net, width(net), RandomNet(KINDS, NARROW), rand(*IMAGE).to(memory_format=torch.channels_last), where()
    )


def test_a_width_that_is_no_prefix_has_no_view():
    net = elastic()
    with pytest.raises(
        errors.WidthError, match=r"needs nested widths.*but 'stem' keeps chosen units. Use net.extract"
    ):
        net.at(net.space.width({"stem": [1, 3]}))


# --- cuts -------------------------------------------------------------------------------------------------------------------


def test_a_cut_takes_and_writes_like_fancy_indexing():
    wide = rand(5, 6, 4)
    chosen = torch.tensor([0, 3, 4]), torch.tensor([1, 2, 5])
    for parts in (
        (None, None, None),
        (slice(0, 2), None, slice(0, 3)),
        (chosen[0], None, None),
        (slice(0, 2), chosen[1], None),
        (chosen[0], chosen[1], None),
        (chosen[0], slice(0, 2), torch.tensor([3])),
        (chosen[0], chosen[1], torch.tensor([0, 3])),
        (None, torch.tensor([0, 3]), torch.tensor([0, 2])),
        (slice(0, 4), torch.tensor([0, 1, 3, 4]), None),
    ):
        index = [
            torch.arange(n) if p is None else torch.arange(p.stop) if isinstance(p, slice) else p
            for p, n in zip(parts, wide.shape, strict=True)
        ]
        mesh = torch.meshgrid(*index, indexing="ij")
        piece = Cut(parts)
        assert torch.equal(piece.of(wide), wide[mesh])
        assert piece.aliases == (not any(isinstance(p, Tensor) for p in parts))
        assert torch.equal(Slice(piece, wide.shape).take(wide), wide[mesh])
        value, expected = rand(*piece.of(wide).shape, seed=3), wide.clone()
        got = wide.clone()
        piece.write_(got, value)
        expected[mesh] = value
        assert torch.equal(got, expected)


def test_the_cut_of_a_full_axis_is_nothing():
    net = elastic()
    assert cut(net.space, "stem.weight", net.space.full) is None
    assert cut(net.space, "no.such.tensor", net.space.full) is None
    assert cut(net.space, "stem.weight", width(net)).axis_parts[0] == slice(0, 3)
    plan = AxisPlan.of(net.space.axes["head.weight"][1])
    assert (plan.total, plan.prefix) == (6, True)
