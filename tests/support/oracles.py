"""Independent answers: compact networks built by hand and filled with hand-sliced weights, in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from anywidth import Elastic, Width
from anywidth.views.slices import cut

Where = Mapping[str, Mapping[int, Sequence[int]]]
TIGHT = {"rtol": 1e-9, "atol": 1e-10}


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in float64 with every parameter and statistic away from its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5 + 0.1)
        for b in model.buffers():
            if b.is_floating_point():
                b.copy_(torch.rand(b.shape, generator=generator, dtype=b.dtype) + 0.5)
    return model


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(model: nn.Module, example: Any) -> Any:
    if isinstance(example, tuple):
        return model(*example)
    return model(**example) if isinstance(example, dict) else model(example)


def tensors(value: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [t for v in items for t in tensors(v)]


def positions(name: str, wide: Tensor, compact: Tensor, where: Where) -> list[Tensor]:
    """Per axis, which positions of the wide tensor the compact one holds: the first ones unless `where` says."""
    chosen = where.get(name, {})
    found = []
    for axis, size in enumerate(compact.shape):
        index = list(chosen.get(axis, range(size)))
        assert len(index) == size, f"{name}: {len(index)} positions for axis {axis} of {tuple(compact.shape)}"
        assert max(index) < wide.shape[axis]
        found.append(torch.tensor(index))
    return found


def hand_slice(wide: Tensor, index: Sequence[Tensor]) -> Tensor:
    return wide[torch.meshgrid(*index, indexing="ij")] if index else wide


def fill_(compact: nn.Module, wide: nn.Module, where: Where) -> nn.Module:
    """Load hand-sliced weights and buffers of `wide` into `compact`, a network built narrow."""
    source, target = wide.state_dict(), compact.state_dict()
    assert source.keys() == target.keys()
    sliced = {n: hand_slice(source[n], positions(n, source[n], t, where)) for n, t in target.items()}
    compact.to(next(wide.parameters()).dtype).load_state_dict(sliced)
    compact.train(wide.training)
    return compact


def scalar(out: Any) -> Tensor:
    """A loss with a different, fixed weight for every output element."""
    return sum(
        ((t * rand(*t.shape, seed=7).to(t)).sum() for t in tensors(out)), torch.zeros((), dtype=torch.float64)
    )


def expected_grads(wide: nn.Module, compact: nn.Module, where: Where) -> dict[str, Tensor]:
    """Gradients of the compact network, put where its elements come from in the wide one, zero elsewhere."""
    names = dict(wide.named_parameters())
    found = {}
    for n, p in compact.named_parameters():
        if p.grad is not None:
            found[n] = torch.zeros_like(names[n])
            index = positions(n, names[n], p, where)
            found[n][torch.meshgrid(*index, indexing="ij") if index else ...] = p.grad
    return found


def assert_same_grads(wide: nn.Module, expected: Mapping[str, Tensor]) -> None:
    got = {n: p.grad for n, p in wide.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    for n, g in expected.items():
        assert_close(got[n], g, **TIGHT, msg=lambda text, n=n: f"gradient of {n}: {text}")


def assert_narrow(
    net: Elastic,
    width: Width | Mapping[str, Any] | float,
    compact: nn.Module,
    example: Any,
    where: Where | None = None,
    *,
    names: bool = True,
) -> None:
    """`net` at `width` is the network `compact`: same shapes and repr, outputs in training and evaluation, gradients.

    Args:
        compact: the same architecture built narrow by hand; its weights are overwritten by hand-sliced ones.
        where: tensor name -> axis -> positions, for axes that do not keep their first positions.
        names: also compare the text of the two networks (the sizes its modules state about themselves).
    """
    where = {} if where is None else where
    w = (
        net.space.width(width)
        if isinstance(width, Mapping) and not isinstance(width, Width)
        else net.width(width)
    )
    net.train()
    fill_(compact, net.model, where)
    view = net.at(w)
    assert {n: tuple(t.shape) for n, t in view.state_dict().items()} == {
        n: tuple(t.shape) for n, t in compact.state_dict().items()
    }
    if names:
        assert repr(view) == repr(compact)
    net.zero_grad()
    mine, theirs = run(view, example), run(compact, example)
    assert len(tensors(mine)) == len(tensors(theirs)) > 0
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert_close(a, b, **TIGHT)
    scalar(mine).backward()
    scalar(theirs).backward()
    assert_same_grads(net.model, expected_grads(net.model, compact, where))
    net.zero_grad()
    fill_(compact, net.model, where)  # training moved the statistics
    small, compact = net.extract(w).eval(), compact.eval()
    with torch.no_grad():
        for a, b in zip(tensors(run(small, example)), tensors(run(compact, example)), strict=True):
            assert_close(a, b, **TIGHT)


def masked(net: Elastic, width: Width) -> nn.Module:
    """The wide network with every element outside the width set to zero."""
    model = copy.deepcopy(net.model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            part = cut(net.space, name, width)
            if part is not None:
                kept = part.of(p).clone()
                part.write_(p.zero_(), kept)
    return model


def groups(net: Elastic) -> dict[str, tuple[int, int]]:
    """Name -> (units, channels per unit)."""
    return {g.name: (g.size, g.unit) for g in net.space.groups}
