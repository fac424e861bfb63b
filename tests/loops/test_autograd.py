"""What autograd offers around a model gives for a view what it gives for the same network built narrow by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import anywidth as aw
from oracles import TIGHT, Where, assert_same_grads, expected_grads, fill_, rand, randomized, scalar
from random_nets import RandomNet, where_kept

HALF = 0.5


@dataclass(frozen=True)
class Pair:
    """An elastic network, and the network that it is at half width, built by hand."""

    net: aw.Elastic
    compact: nn.Module
    where: Where
    x: Tensor
    modules: tuple[str, ...]  # some whose hooks are compared

    def narrow_gradients(self) -> dict[str, Tensor]:
        """Of the compact network, as gradients of the wide one."""
        return expected_grads(self.net.model, self.compact, self.where)


def random_pair(*kinds: str) -> Pair:
    makers = sum(kind not in ("groupnorm", "batchnorm", "depthwise") for kind in kinds)
    wide, narrow = [8, 4, 6, 8, 4][: makers + 1], [4, 2, 3, 4, 2][: makers + 1]
    net = aw.Elastic(randomized(RandomNet(kinds, wide)), rand(1, 3, 5, 5), widths=[HALF, 1.0])
    where = where_kept(kinds, wide, [range(n) for n in narrow])
    return Pair(
        net,
        fill_(RandomNet(kinds, narrow), net.model, where),
        where,
        rand(4, 3, 5, 5),
        ("blocks.0.0", "head"),
    )


def packed_pair() -> Pair:
    """Queries, keys and values in one projection: two of four heads are kept of each."""
    from timm.models import VisionTransformer

    def build(embed_dim: int, num_heads: int) -> VisionTransformer:
        options: Any = {"img_size": 8, "patch_size": 4, "depth": 2, "num_classes": 3}
        model = VisionTransformer(embed_dim=embed_dim, num_heads=num_heads, **options)
        for block in model.blocks:
            block.attn.fused_attn = False  # fused attention has no second derivative
        return model

    rows = [*range(8), *range(16, 24), *range(32, 40)]
    where = {f"blocks.{i}.attn.qkv.{t}": {0: rows} for i in range(2) for t in ("weight", "bias")}
    net = aw.Elastic(randomized(build(16, 4)), rand(1, 3, 8, 8), widths=[HALF, 1.0])
    modules = ("blocks.0.attn.qkv", "blocks.1", "head")
    return Pair(net, fill_(build(8, 2), net.model, where), where, rand(4, 3, 8, 8), modules)


PAIRS: dict[str, Callable[[], Pair]] = {
    "dense": lambda: random_pair("dense", "groupnorm", "residual", "depthwise", "gate", "plain"),
    "packed": packed_pair,
}
NORMED = {**PAIRS, "batchnorm": lambda: random_pair("batchnorm", "dense", "batchnorm", "plain")}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return PAIRS[request.param]()


@pytest.fixture(params=NORMED)
def normed(request: pytest.FixtureRequest) -> Pair:
    """In training mode: batch norms normalise with the statistics of the batch."""
    return NORMED[request.param]()


def gradients_of(loss: Tensor, model: nn.Module, **options: Any) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, **options), strict=True))


def set_gradients_(model: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    for name, p in model.named_parameters():
        p.grad = gradients[name]


# --- gradients by name ------------------------------------------------------------------------------------------------


def test_autograd_grad_with_respect_to_the_wide_parameters(normed: Pair) -> None:
    found = gradients_of(scalar(normed.net.at(HALF)(normed.x)), normed.net.model)
    assert all(p.grad is None for p in normed.net.parameters())
    scalar(normed.compact(normed.x)).backward()
    set_gradients_(normed.net.model, found)
    assert_same_grads(normed.net.model, normed.narrow_gradients())


def test_autograd_grad_with_respect_to_one_parameter_and_the_input(pair: Pair) -> None:
    x, same = (pair.x.clone().requires_grad_() for _ in range(2))
    weight, narrow = (m.get_parameter("head.weight") for m in (pair.net.model, pair.compact))
    found = torch.autograd.grad(scalar(pair.net.at(HALF)(x)), [weight, x])
    expected = torch.autograd.grad(scalar(pair.compact(same)), [narrow, same])
    narrow.grad = expected[0]
    assert_close(found[0], pair.narrow_gradients()["head.weight"], **TIGHT)
    assert_close(found[1], expected[1], **TIGHT)


# --- hooks --------------------------------------------------------------------------------------------------------------


def test_hooks_of_wide_parameters_run_once_with_the_gradient_of_all_widths(normed: Pair) -> None:
    wide = copy.deepcopy(normed.net.model)
    scalar(wide(normed.x)).backward()
    scalar(normed.compact(normed.x)).backward()
    narrow = normed.narrow_gradients()
    seen: dict[str, list[Tensor]] = {}
    accumulated: dict[str, list[Tensor]] = {}
    for name, p in normed.net.model.named_parameters():

        def doubled(gradient: Tensor, name: str = name) -> Tensor:
            seen.setdefault(name, []).append(gradient.clone())
            return 2 * gradient

        def record(p: Tensor, name: str = name) -> None:
            assert p.grad is not None
            accumulated.setdefault(name, []).append(p.grad.clone())

        p.register_hook(doubled)
        p.register_post_accumulate_grad_hook(record)
    (scalar(normed.net.at(1.0)(normed.x)) + scalar(normed.net.at(HALF)(normed.x))).backward()
    for name, p in wide.named_parameters():
        assert p.grad is not None
        expected = p.grad + narrow[name]
        (gradient,), (total,) = seen[name], accumulated[name]
        assert_close(gradient, expected, **TIGHT)
        assert_close(total, 2 * expected, **TIGHT)


Seen = list[tuple[Any, ...]]


def record_(module: nn.Module, seen: Seen) -> None:
    """Record what backward hooks get, and change the gradient that goes on."""

    def before(module: nn.Module, grad_output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(grad_output)
        return tuple(1.5 * g for g in grad_output)

    def after(module: nn.Module, grad_input: Any, grad_output: Any) -> tuple[Tensor, ...]:
        seen.append((*grad_input, *grad_output))
        return tuple(-g for g in grad_input)

    module.register_full_backward_pre_hook(before)
    module.register_full_backward_hook(after)


@pytest.mark.parametrize("when", ["before", "after", "after running"])
def test_backward_hooks_of_wide_modules_run_for_views(normed: Pair, when: str) -> None:
    found: Seen = []
    expected: Seen = []
    view = None if when == "before" else normed.net.at(HALF)
    if view is not None and when == "after running":
        with torch.no_grad():
            view(normed.x)
    for path in normed.modules:
        record_(normed.net.model.get_submodule(path), found)
        record_(normed.compact.get_submodule(path), expected)
    scalar((normed.net.at(HALF) if view is None else view)(normed.x)).backward()
    scalar(normed.compact(normed.x)).backward()
    assert len(found) == len(expected) == 2 * len(normed.modules)
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs, **TIGHT)
    assert_same_grads(normed.net.model, normed.narrow_gradients())


# --- second derivatives ---------------------------------------------------------------------------------------------------


def test_a_penalty_on_the_gradient_of_the_input(normed: Pair) -> None:
    for model in (normed.net.at(HALF), normed.compact):
        x = normed.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
        gradient.square().sum().backward()
    assert_used_the_same(normed)


def test_a_penalty_on_the_gradients_of_the_parameters(normed: Pair) -> None:
    for model, owner in ((normed.net.at(HALF), normed.net.model), (normed.compact, normed.compact)):
        gradients = gradients_of(model(normed.x).square().mean(), owner, create_graph=True)
        sum((g.square().sum() for g in gradients.values()), torch.zeros(())).backward()
    assert_used_the_same(normed)


def assert_used_the_same(pair: Pair) -> None:
    """Second derivatives of what a loss does not depend on are None in one network and zero in another."""
    for model in (pair.net.model, pair.compact):
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    assert_same_grads(pair.net.model, pair.narrow_gradients())


# --- torch.func -----------------------------------------------------------------------------------------------------------


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def changed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t + 0.3 * rand(*t.shape, seed=i) for i, (n, t) in enumerate(tensors.items())}


def test_functional_call_takes_the_tensors_it_gets(pair: Pair) -> None:
    view = pair.net.at(HALF)
    before, tensors = view(pair.x), tensors_of(view)
    assert_close(functional_call(view, tensors, (pair.x,)), before, **TIGHT)
    others = changed(tensors)
    found = functional_call(view, others, (pair.x,))
    assert_close(found, functional_call(pair.compact, others, (pair.x,)), **TIGHT)
    assert (found - before).abs().max() > 0.1
    assert_close(view(pair.x), before, rtol=0, atol=0)  # its own tensors are back
    assert pair.net.at(HALF) is view


def test_functional_call_with_some_tensors_takes_the_others_from_the_wide_network(pair: Pair) -> None:
    view = pair.net.at(HALF)
    own = {n: (2 * t.detach()).requires_grad_() for n, t in view.named_parameters() if n.startswith("head")}
    same = {n: t.detach().clone().requires_grad_() for n, t in own.items()}
    found, expected = functional_call(view, own, (pair.x,)), functional_call(pair.compact, same, (pair.x,))
    assert_close(found, expected, **TIGHT)
    scalar(found).backward()
    scalar(expected).backward()
    for name, t in own.items():
        assert_close(t.grad, same[name].grad, **TIGHT)
        assert pair.net.model.get_parameter(name).grad is None
    assert_same_grads(pair.net.model, pair.narrow_gradients())


def loss_of(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda tensors, x: functional_call(model, tensors, (x,)).square().mean()


@pytest.mark.parametrize("others", [False, True], ids=["own tensors", "other tensors"])
def test_func_grad(pair: Pair, others: bool) -> None:
    view = pair.net.at(HALF)
    tensors = changed(tensors_of(view)) if others else tensors_of(view)
    found, expected = grad(loss_of(view))(tensors, pair.x), grad(loss_of(pair.compact))(tensors, pair.x)
    for name in expected:
        assert_close(found[name], expected[name], **TIGHT)
    assert all(p.grad is None for p in pair.net.parameters())


def test_gradients_of_every_image_by_vmap(pair: Pair) -> None:
    view = pair.net.at(HALF)
    tensors = changed(tensors_of(view))
    found, expected = (
        vmap(grad(loss_of(m)), in_dims=(None, 0))(tensors, pair.x[:, None]) for m in (view, pair.compact)
    )
    for name in expected:
        assert_close(found[name], expected[name], **TIGHT)
    assert any((g[0] - g[1]).abs().max() > 0.01 for g in found.values())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch about itself
def test_forward_mode_derivatives(pair: Pair) -> None:
    view = pair.net.at(HALF)
    tensors = tensors_of(view)
    tangents = {n: rand(*t.shape, seed=i) for i, (n, t) in enumerate(tensors.items())}
    found, expected = (
        jvp(lambda t, m=m: functional_call(m, t, (pair.x,)), (tensors,), (tangents,))
        for m in (view, pair.compact)
    )
    assert_close(found, expected, **TIGHT)


def test_an_ensemble_by_vmap(pair: Pair) -> None:
    view = pair.net.at(HALF)
    stacked = {n: torch.stack([t, changed({n: t})[n]]) for n, t in tensors_of(view).items()}
    found, expected = (
        vmap(lambda t, m=m: functional_call(m, t, (pair.x,)))(stacked) for m in (view, pair.compact)
    )
    assert_close(found, expected, **TIGHT)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_state_of_copies_of_a_width_is_stacked(pair: Pair) -> None:
    parameters, _ = stack_module_state([pair.net.extract(HALF), pair.net.extract(HALF)])
    expected = dict(pair.compact.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, t in parameters.items():
        assert_close(t, torch.stack([expected[name]] * 2), **TIGHT)


def test_grad_with_respect_to_the_wide_tensors(pair: Pair) -> None:
    """The wide network's tensors, given by name, reach its views."""

    class AtHalf(nn.Module):
        def __init__(self, net: aw.Elastic) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net.at(HALF)(x)

    module = AtHalf(pair.net)
    tensors = {n: t.detach().clone() for n, t in module.named_parameters()}
    found = grad(lambda t: scalar(functional_call(module, t, (pair.x,))))(tensors)
    scalar(pair.compact(pair.x)).backward()
    set_gradients_(pair.net.model, {n.removeprefix("net.model."): g for n, g in found.items()})
    assert_same_grads(pair.net.model, pair.narrow_gradients())
    with torch.no_grad():
        before = module(pair.x)
        doubled = functional_call(module, {n: 2 * t for n, t in tensors.items()}, (pair.x,))
    assert (doubled - before).abs().max() > 0.1


# --- less memory, less precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_a_view(normed: Pair, use_reentrant: bool) -> None:
    for model in (normed.net.at(HALF), normed.compact):
        x = normed.x.clone().requires_grad_()
        out: Any = model(x) if model is normed.compact else checkpoint(model, x, use_reentrant=use_reentrant)
        scalar(out).backward()
    assert_same_grads(normed.net.model, normed.narrow_gradients())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_several_widths_in_one_backward_pass(normed: Pair, use_reentrant: bool) -> None:
    wide = copy.deepcopy(normed.net.model)
    scalar(wide(normed.x)).backward()
    scalar(normed.compact(normed.x)).backward()
    x = normed.x.clone().requires_grad_()
    outs: Any = [checkpoint(normed.net.at(w), x, use_reentrant=use_reentrant) for w in (1.0, HALF)]
    sum(map(scalar, outs)).backward()
    expected = normed.narrow_gradients()
    for name, p in wide.named_parameters():
        assert p.grad is not None
        expected[name] = expected[name] + p.grad
    assert_same_grads(normed.net.model, expected)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_the_checkpointing_of_transformers(use_reentrant: bool, when: str) -> None:
    """Switched on before or after the network was made elastic, layers of views run again in the backward pass."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=8,
        patch_size=4,
    )
    model, x = ViTForImageClassification(config).double().train(), rand(2, 3, 8, 8)
    plain = aw.Elastic(copy.deepcopy(model), {"pixel_values": x}, widths=[HALF])
    if when == "before":
        model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    net = aw.Elastic(model, {"pixel_values": x}, widths=[HALF])
    if when == "after":
        model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    runs: list[int] = []
    model.get_submodule("vit.layers.0.mlp.fc1").register_forward_hook(
        lambda m, args, out: runs.append(len(out))
    )
    for network in (net, plain):
        scalar(network.at(HALF)(pixel_values=x).logits).backward()
    assert len(runs) == 2
    assert_same_grads(net.model, {n: p.grad for n, p in plain.model.named_parameters() if p.grad is not None})


def test_scaled_losses(pair: Pair) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimiser = torch.optim.SGD(pair.net.parameters(), lr=0.1)
    scaler.scale(scalar(pair.net.at(HALF)(pair.x))).backward()
    scaler.unscale_(optimiser)
    scalar(pair.compact(pair.x)).backward()
    expected = pair.narrow_gradients()
    assert_same_grads(pair.net.model, expected)
    before = {n: p.detach().clone() for n, p in pair.net.model.named_parameters()}
    scaler.step(optimiser)
    scaler.update()
    for name, p in pair.net.model.named_parameters():
        assert_close(p.detach(), before[name] - 0.1 * expected[name], **TIGHT)


def test_a_step_with_an_infinite_gradient_is_skipped(pair: Pair) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimiser = torch.optim.SGD(pair.net.parameters(), lr=0.1)
    before = {n: p.detach().clone() for n, p in pair.net.named_parameters()}
    scaler.scale(scalar(pair.net.at(HALF)(pair.x)) * torch.inf).backward()
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 512.0
    for name, p in pair.net.named_parameters():
        assert torch.equal(p, before[name]), name


def test_autocast(pair: Pair) -> None:
    net, compact, x = pair.net.float(), pair.compact.float(), pair.x.float()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = net.at(HALF)(x), compact(x)
    assert found.dtype is expected.dtype is torch.bfloat16
    assert_close(found, expected, rtol=0.02, atol=0.02)
    found.float().square().mean().backward()
    expected.float().square().mean().backward()
    narrow = pair.narrow_gradients()
    for name, p in net.model.named_parameters():
        assert p.grad is not None
        assert p.grad.dtype is torch.float32
        assert (p.grad - narrow[name]).norm() <= 0.02 * narrow[name].norm() + 1e-6, name


def test_several_widths_under_one_autocast(pair: Pair) -> None:
    """Autocast keeps casts of parameters while it lasts; those of one width are no other width's."""
    net, x = pair.net.float(), pair.x.float()
    with torch.autocast("cpu", torch.bfloat16):
        together = [net.at(w)(x) for w in (1.0, HALF, 1.0, HALF)]
    for w, out in zip((1.0, HALF, 1.0, HALF), together, strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(out, net.at(w)(x), rtol=0, atol=0)
    sum(t.float().square().mean() for t in together).backward()
    gradients = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    for w in (1.0, HALF, 1.0, HALF):
        with torch.autocast("cpu", torch.bfloat16):
            out = net.at(w)(x)
        out.float().square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert (gradients[name] - p.grad).norm() <= 0.02 * p.grad.norm() + 1e-6, name
