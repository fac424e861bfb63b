"""Sums of products beyond the matrix product: bilinear forms, distances, grouped and sparse products, batches that are summed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anywidth.tracing.labels import varying
from anywidth.tracing.rules.contraction import bmm
from anywidth.tracing.symbolic_sizes import DimSize
from anywidth.tracing.trace_state import Walk

Factor = tuple[Sequence[Tensor], Sequence[int], str]
"""Shadows, shape and one letter for each dimension."""


def product(walk: Walk, factors: Sequence[Factor], letters: str) -> list[Tensor]:
    """Shadows of a product with dimensions `letters`; it is summed over all other letters of its factors."""
    # Distances of (N, P, C) and (N, R, C), letters npc, nrc -> npr: both over the grid (n, p, r, c), where labels meet along n and
    # c; those along c alone are summed away, a table along p and c is projected on p.
    grid = letters + "".join(dict.fromkeys(x for _, _, names in factors for x in names if x not in letters))
    merged: list[Tensor] = []
    so_far = [1] * len(grid)
    for shadows, shape, names in factors:
        size_of = dict(zip(names, shape, strict=True))
        sizes = [size_of.get(x, 1) for x in grid]
        merged = walk.together(merged, so_far, [_on_grid(s, names, grid) for s in shadows], sizes)
        so_far = [max(a, b) for a, b in zip(so_far, sizes, strict=True)]
    results = []
    for s in merged:
        keep = tuple(d for d in varying(s) if d < len(letters))
        if keep and len(keep) < len(varying(s)):
            s = walk.ledger.project(s, keep, None, walk.where, contraction=True)
        if keep:
            results.append(s.reshape(s.shape[: len(letters)]))
    return walk.without_nested(results)


def _on_grid(shadow: Tensor, names: str, grid: str) -> Tensor:
    """A shadow (a, b) with names "ca" on the grid "abc": (b, 1, a)."""
    order = [names.index(x) for x in grid if x in names]
    sizes = iter([shadow.shape[d] for d in order])
    return shadow.permute(order).reshape([next(sizes) if x in names else 1 for x in grid])


def _reads(walk: Walk, weight: Tensor, dims: Sequence[int]) -> None:
    """A weight reads channels along `dims`, where it is summed, and writes them along the others."""
    if walk.is_weight(weight):
        for s in walk.shadows(weight):
            (walk.read if any(s.shape[d] > 1 for d in dims) else walk.written).append(s.numpy().ravel())


def _labelled_size(walk: Walk, *places: tuple[Tensor, int]) -> int | DimSize:
    """The size of a dimension that several tensors share, from one of them that has channels there."""
    sizes = [walk.size(t, d) for t, d in places]
    return next((n for n in sizes if isinstance(n, DimSize)), sizes[0])


def dot(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Two vectors and their sum of products, a number."""
    a, b = args[:2]
    walk.together(walk.shadows(a), a.shape, walk.shadows(b), b.shape)
    walk.set(out, [])


def outer_sum(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """addr: (m, n) + (m,) (n,)."""
    base, a, b = args[:3]
    walk.set(out, product(walk, [(walk.shadows(a), a.shape, "m"), (walk.shadows(b), b.shape, "n")], "mn"))
    walk.set(out, walk.elementwise([out, base], out.shape))


def matvec_sum(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """addmv: (m,) + (m, k) (k,)."""
    base, a, v = args[:3]
    walk.contracted(a, v, 1, 0)
    walk.set(out, product(walk, [(walk.shadows(a), a.shape, "mk"), (walk.shadows(v), v.shape, "k")], "m"))
    walk.set(out, walk.elementwise([out, base], out.shape))
    walk.record(out, [walk.size(a, 0), _labelled_size(walk, (a, 1), (v, 0))])


def batch_sum(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """addbmm: (m, n) + the sum over b of (b, m, k) (b, k, n)."""
    base, a, b = args[:3]
    walk.contracted(a, b, 2, 1)
    walk.set(out, product(walk, [(walk.shadows(a), a.shape, "bmk"), (walk.shadows(b), b.shape, "bkn")], "mn"))
    walk.set(out, walk.elementwise([out, base], out.shape))
    summed = _labelled_size(walk, (a, 2), (b, 1))
    walk.record(out, [walk.size(a, 0), walk.size(a, 1), summed, walk.size(b, 2)])


def trilinear(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """nn.Bilinear: y[n, o] = sum over i and j of x1[n, i] w[o, i, j] x2[n, j]."""
    # Every factor is expanded at the dimensions listed for it, (N, I) at [1, 3] to (N, 1, I, 1), all are multiplied, and the product
    # (N, O, I, J) is summed over [2, 3].
    tensors, expanded, summed = args[:3], args[3:6], args[6]
    ndim = tensors[0].ndim + len(expanded[0])
    grid = "abcdefghij"[:ndim]
    factors = []
    for t, dims in zip(tensors, expanded, strict=True):
        own = [d for d in range(ndim) if d not in dims]
        factors.append((walk.shadows(t), t.shape, "".join(grid[d] for d in own)))
        _reads(walk, t, [i for i, d in enumerate(own) if d in summed])
    walk.set(out, product(walk, factors, "".join(x for d, x in enumerate(grid) if d not in summed)))
    places: list[list[tuple[Tensor, int]]] = [[] for _ in grid]
    for t, (_, _, names) in zip(tensors, factors, strict=True):
        for i, x in enumerate(names):
            places[grid.index(x)].append((t, i))
    walk.record(out, [_labelled_size(walk, *p) for p in places])


def distances(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """cdist: (..., P, C) and (..., R, C) -> (..., P, R). A channel without a counterpart adds to it, so none is only read."""
    a, b = args[:2]
    batch = "abcdefgh"[: out.ndim - 2]
    factors = []
    for t, rows in ((a, "p"), (b, "r")):
        names = batch[len(batch) - (t.ndim - 2) :] + rows + "x"
        factors.append((walk.shadows(t), t.shape, names))
    walk.set(out, product(walk, factors, f"{batch}pr"))
    summed = _labelled_size(walk, (a, a.ndim - 1), (b, b.ndim - 1))
    walk.record(out, [math.prod(out.shape[:-2]), walk.size(a, a.ndim - 2), walk.size(b, b.ndim - 2), summed])


def own_distances(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """pdist: the distances of all pairs of rows, as one list."""
    for s in walk.shadows(args[0]):
        walk.ledger.rigid(s, 0, "pairs are listed in order", walk.where)
    walk.set(out, [])


def grouped(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Experts: rows (S, K), sorted by expert, each times the weight of its expert, (E, K, N) -> (S, N)."""
    a, b = args[:2]
    if (a.ndim, b.ndim) == (3, 3):
        bmm(walk, func, (a, b), {}, out)
        return
    if (a.ndim, b.ndim) != (2, 3):
        walk.freeze([*walk.shadows(a), *walk.shadows(b)], "groups along the summed dimension")
        return
    for s in walk.shadows(b):
        walk.ledger.rigid(s, 0, "experts are addressed by number", walk.where)
    _in_aligned_blocks(walk, a, b)
    walk.contracted(a, b, 1, 1)
    columns = [s[0] for s in walk.shadows(b) if s.shape[0] == 1]
    walk.set(out, product(walk, [(walk.shadows(a), a.shape, "sk"), (columns, b.shape[1:], "kn")], "sn"))
    bias = args[3] if len(args) > 3 else kwargs.get("bias")
    if isinstance(bias, Tensor):
        walk.set(out, walk.elementwise([out, bias[:1]], out.shape))
    walk.record(out, [walk.size(a, 0), _labelled_size(walk, (a, 1), (b, 1)), walk.size(b, 2)])


def _in_aligned_blocks(walk: Walk, a: Tensor, b: Tensor) -> None:
    """The kernel wants rows of multiples of 16 bytes: 4 channels of float32 go together, or 8 of bfloat16."""
    # A row of (S, K) has K entries; one of (E, K, N) has N, or K where it is the transpose of a weight (E, N, K).
    each = 16 // a.element_size()
    last = b.ndim - 1 if b.stride(-1) == 1 else b.ndim - 2
    for t, dim in ((a, 1), (b, last)):
        for s in walk.shadows(t):
            if s.shape[dim] > 1 and s.shape[dim] % each == 0:
                blocks = s.unflatten(dim, (-1, each))
                walk.ledger.equate(blocks, blocks.narrow(dim + 1, 0, 1))


def sparse_addmm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """beta (m, n) + alpha (m, k) (k, n), with a sparse first factor; `torch.sparse.mm` adds zeros with beta 0."""
    base, a, b = args[:3]
    beta = args[3] if len(args) > 3 else kwargs.get("beta", 1)
    sparse_mm(walk, func, (a, b), {}, out)
    if beta != 0:
        walk.set(out, walk.elementwise([out, base], out.shape))


def sparse_mm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """A sparse (m, k), a graph, times (k, n): one multiply-add for each stored entry and column."""
    a, b = args[:2]
    walk.contracted(a, b, 1, 0)
    walk.set(out, product(walk, [(walk.shadows(a), a.shape, "mk"), (walk.shadows(b), b.shape, "kn")], "mn"))
    walk.record(out, [a._nnz(), walk.size(b, 1)])
