"""The numbers a model's code passes to shape operations, and what they must be at every width.

Works one level above `rules`: there the sizes are bare integers, here they still know their origin. A literal
in the code cannot follow a width, so the channels it counts keep their number; a number that came from a module
attribute or from another tensor's size must follow, which is written down as a `Demand`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.tracing.derived_numbers import scaled
from anywidth.tracing.labels import varying
from anywidth.tracing.symbolic_sizes import (
    Attribute,
    Binary,
    DimSize,
    Expression,
    Form,
    TracedInt,
    evaluate,
    expression,
    leaves,
)
from anywidth.tracing.trace_state import Demand, Walk, outputs

# Example: q.reshape(B, N, self.num_heads, C // self.num_heads), q (B, N, C). The sizes arrive as TracedInts, and
# dimension 2 of the result, whose label set is yet to be found, must be `num_heads` at every width:
# Demand(Attribute(num_heads), DimSize(2)), and Demand(C // num_heads, DimSize(3)). With the literal 8 in place of
# self.num_heads dimension 2 would be rigid.
Handler = Callable[[Walk, Sequence[Any], dict[str, Any], Any], None]


def demand(walk: Walk, size: int, needed: DimSize | int, what: str) -> None:
    if isinstance(size, TracedInt):
        walk.demands.append(Demand(expression=expression(size), needed=needed, where=walk.where, what=what))


def counted(walk: Walk, t: Tensor, dim: int, size: int, what: str) -> None:
    """`size` is the size of dimension `dim` of `t` in the model's code."""
    if isinstance(size, TracedInt):
        demand(walk, size, walk.size(t, dim), what)
    else:
        for s in walk.shadows(t):
            walk.ledger.rigid(s, dim, f"the size {int(size)} is written in the code", walk.where)


def tables(walk: Walk, t: Tensor) -> None:
    for s in walk.shadows(t):
        walk.table(s)


def label_new(walk: Walk, t: Tensor, dim: int, size: TracedInt, what: str) -> None:
    """A dimension that comes out of nothing but a number: as many channels as the number says.

    Numbers computed from attributes alone (padded image sizes, numbers of windows) are not taken for channels.
    """
    source = expression(size)
    if not isinstance(source, Attribute) and not any(isinstance(leaf, DimSize) for leaf in leaves(source)):
        demand(walk, size, int(size), what)
    elif t.shape[dim] > 1:
        shape = [1] * t.ndim
        shape[dim] = -1
        walk.set(t, [*walk.shadows(t), walk.ledger.fresh_count(t.shape[dim]).reshape(shape)])
        demand(walk, size, walk.size(t, dim), what)


def sizes_of(args: Sequence[Any], kwargs: dict[str, Any], *names: str) -> Sequence[int]:
    if len(args) == 1 and isinstance(args[0], list | tuple):
        return args[0]
    if not args:
        return next((kwargs[n] for n in names if n in kwargs), ())
    return args


def view(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    sizes = sizes_of(args[1:], kwargs, "shape", "size")
    for dim, size in enumerate(sizes):
        if isinstance(size, int) and size != -1:
            counted(walk, out, dim, size, f"size {dim} of a reshape")
    tables(walk, out)


def unflatten(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    dim = (args[1] if len(args) > 1 else kwargs["dim"]) % args[0].ndim
    sizes = args[2] if len(args) > 2 else kwargs["sizes"]
    for i, size in enumerate(sizes):
        if size != -1:
            counted(walk, out, dim + i, size, "a size of unflatten")
    tables(walk, out)


def expand(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source = args[0]
    for dim, size in enumerate(sizes_of(args[1:], kwargs, "size")):
        old = dim - (out.ndim - source.ndim)
        if size == -1:
            continue
        if old >= 0 and source.shape[old] == size:
            counted(walk, out, dim, size, "a size of expand")
        elif isinstance(size, TracedInt):
            label_new(walk, out, dim, size, "a size of expand")


def repeat(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source = args[0]
    for dim, count in enumerate(sizes_of(args[1:], kwargs, "repeats", "dims")):
        old = dim - (out.ndim - source.ndim)
        if not isinstance(count, TracedInt):
            continue
        if old < 0 or source.shape[old] == 1:
            label_new(walk, out, dim, count, "a count of repeat")
        else:
            demand(walk, count, int(count), "a count of repeat")


def pieces(walk: Walk, source: Tensor, chunks: Sequence[Tensor], dim: int) -> None:
    """Equal pieces of a channel axis: each loses the same channels.

    After a channel shuffle the pieces interleave, and no channel subset is a piece of the narrow network too: there
    the narrow network routes by position, as a network built narrow does.
    """
    # x (N, 6, H, W) with labels 1..6 in 2 chunks: table [[1, 2, 3], [4, 5, 6]], so 1 = 4, 2 = 5, 3 = 6.
    # After a shuffle with 2 groups the labels are 1 4 2 5 3 6, and chunks 1 4 2 and 5 3 6 of the wide network are not
    # those of a narrow one (labels 1 4 2 5 -> 1 4 and 2 5).
    if any(p.shape[dim] != chunks[0].shape[dim] for p in chunks) or len(chunks) < 2:
        for s in walk.shadows(source):
            walk.ledger.rigid(s, dim, "pieces of unequal size", walk.where)
        return
    for s in list(walk.shadows(source)):
        if s.shape[dim] == 1:
            continue
        flat = s.reshape(-1)
        # Labels are handed out in order, so an axis that was not shuffled mostly counts up by one.
        runs = (flat[1:] - flat[:-1] == 1).double().mean().item() if len(varying(s)) == 1 else 1.0
        if runs > 0.5 or not bool((flat > 0).all()):
            table = torch.stack(s.chunk(len(chunks), dim))
            walk.ledger.equate(table, table[:1])
            continue
        # Routed by position: channel i of every chunk carries one fresh label, and with 2 chunks it equals the labels at
        # positions 2 i and 2 i + 1, which keeps the total a multiple of the number of chunks.
        size = chunks[0].shape[dim]
        fresh = walk.ledger.fresh(size)
        walk.ledger.equate(flat.reshape(size, len(chunks)), fresh.reshape(size, 1))
        walk.ledger.ordered.append(fresh.numpy())
        for p in chunks:
            shape = [1] * p.ndim
            shape[dim] = size
            other_shadows = [t for t in walk.shadows(p) if t.shape[dim] == 1]
            walk.set(p, [*other_shadows, fresh.reshape(shape)])


def split_sizes(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source = args[0]
    sections: Any = (
        args[1] if len(args) > 1 else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    )
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % source.ndim
    if isinstance(sections, list | tuple):
        start = 0
        for section, size in zip(out, sections, strict=True):
            for s in walk.shadows(source):
                if section.shape[dim] == 1 and s.shape[dim] > 1:
                    walk.ledger.freeze(s.narrow(dim, start, 1), "a single channel is split off", walk.where)
            counted(walk, section, dim, size, "a section of split")
            start += section.shape[dim]
        return
    pieces(walk, source, out, dim)
    counted(walk, out[0], dim, sections, "the size of a split")


def chunk(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].ndim
    pieces(walk, args[0], out, dim)


def unbind(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Handled by the rule; here only so that its number is not taken for a size."""


def bound(walk: Walk, source: Tensor, dim: int, limit: Any) -> None:
    """A slice bound along a dimension: as many channels before it as the code says."""
    if limit is None or int(limit) == 0 or not walk.shadows(source):
        return
    size = source.shape[dim]
    for s in walk.shadows(source):
        if s.shape[dim] == 1 or (not isinstance(limit, TracedInt) and limit >= size):
            continue
        if limit < 0:
            walk.ledger.rigid(s, dim, "sliced from the end by a number in the code", walk.where)
            continue
        head = s.narrow(dim, 0, min(int(limit), size))
        if isinstance(limit, TracedInt):
            demand(walk, limit, DimSize((head,), dim, head.shape[dim]), "a slice bound")
        elif len(varying(s)) == 1:
            walk.ledger.freeze(head, f"sliced at {limit}, a number in the code", walk.where)
        else:
            walk.ledger.rigid(s, dim, f"sliced at {limit}, a number in the code", walk.where)


def getitem(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    # x[:, None, ..., :k] on (N, C, H, W): `taken` counts the keys that use up a dimension (2; a boolean mask uses up as many
    # as it has), so `...` stands for 4 - 2 dimensions, and the slice bound k belongs to dimension 3.
    source, key = args[0], args[1]
    keys = key if isinstance(key, tuple) else (key,)
    taken = sum(
        k.ndim if isinstance(k, Tensor) and k.dtype == torch.bool else 1
        for k in keys
        if k is not None and k is not Ellipsis
    )
    dim = 0
    for k in keys:
        if k is None:
            continue
        if k is Ellipsis:
            dim += source.ndim - taken
            continue
        if isinstance(k, slice) and k.step in (None, 1):  # what a step takes is for the rule to say
            bound(walk, source, dim, k.start)
            bound(walk, source, dim, k.stop)
        dim += k.ndim if isinstance(k, Tensor) and k.dtype == torch.bool else 1


def narrow(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    dim = args[1] % args[0].ndim
    bound(walk, args[0], dim, args[2])
    counted(walk, out, dim, args[3], "the length of narrow")


def layer_norm_shape(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    for i, size in enumerate(shape):
        counted(walk, args[0], args[0].ndim - len(shape) + i, size, "the normalised shape")


def group_norm_groups(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    groups = args[1] if len(args) > 1 else kwargs["num_groups"]
    x = args[0]
    for s in walk.shadows(x):
        if s.shape[1] == 1 or groups == 1:
            continue
        table = s.movedim(1, -1).reshape(-1, x.shape[1])[0].reshape(int(groups), -1)
        if isinstance(groups, TracedInt):
            demand(walk, groups, DimSize((table,), 0, int(groups)), "the number of norm groups")
        else:
            walk.ledger.equate(table, table[:1])


def pad_amounts(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Zeros at the end of a channel axis, up to a size that the code computes: the result has that many channels.

    What is padded may be narrower, or wider (then it is cut), by any number: its channels are not those of the result.
    """
    # The shortcut of a CIFAR ResNet: F.pad(x, (0, 0, 0, 0, 0, planes - x.shape[1])). The amount is the expression
    # planes - size, so the result has `planes` channels at every width, new ones, and x as many as it has.
    # torch lists the last dimension first: pair k of `amounts` pads dimension ndim - 1 - k.
    source, amounts = args[0], args[1] if len(args) > 1 else kwargs["pad"]
    mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
    zeros = mode == "constant" and not (args[3] if len(args) > 3 else kwargs.get("value"))
    for k, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        dim = source.ndim - 1 - k
        if not (zeros and type(before) is int and before == 0 and filled_up(walk, source, dim, after, out)):
            constant(walk, (before, after), {}, out)


def filled_up(walk: Walk, source: Tensor, dim: int, amount: int, out: Tensor) -> bool:
    """Whether `amount` is a size less that of `source`; if so, the channels of `out` are those of the first size."""
    gap = expression(amount)
    if not isinstance(gap, Binary) or gap.op != "-" or present(gap.right) != source.shape[dim]:
        return False
    if any(s.shape[dim] > 1 and len(varying(s)) > 1 for s in walk.shadows(source)):
        return False
    counted(walk, source, dim, number(gap.right), "the size that a padding starts from")
    walk.ledger.ordered += [s.numpy().ravel() for s in walk.shadows(source) if s.shape[dim] > 1]
    walk.set(out, [s for s in walk.shadows(out) if s.shape[dim] == 1])
    target = number(gap.left)
    if isinstance(target, TracedInt):
        label_new(walk, out, dim, target, "the size that a padding ends at")
        walk.ledger.ordered += [s.numpy().ravel() for s in walk.shadows(out) if s.shape[dim] > 1]
    return True


def present(tree: Expression) -> int | None:
    """What an expression is in the wide network."""
    form = evaluate(tree, lambda leaf: Form(leaf.size if isinstance(leaf, DimSize) else leaf.value))
    return None if form is None else form.constant


def number(tree: Expression) -> int:
    value = present(tree)
    assert value is not None, "a size is a number"
    return value if isinstance(tree, int) else TracedInt(value, tree)


def convolve(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    x = args[0]
    channel_dim = x.ndim - (out.ndim - 1) if out.ndim == x.ndim else 1
    if groups > 1 and groups == x.shape[1] and channel_dim == 1:
        counted(walk, x, 1, groups, "the groups of a depthwise convolution")
    else:
        demand(walk, groups, int(groups), "the groups of a convolution")


def factory(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    size_args = args[1:] if walk.operation.startswith("new_") else args
    sizes = sizes_of(size_args[:1] if "full" in walk.operation else size_args, kwargs, "size")
    walk.blank(out)
    if len(sizes) < out.ndim:
        return
    for dim, n in enumerate(sizes[: out.ndim]):
        if isinstance(n, TracedInt) and n == out.shape[dim]:
            label_new(walk, out, dim, n, "a size of a new tensor")


def counting(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    numbers = [a for a in args if isinstance(a, int)]
    if len(numbers) == 1 and isinstance(numbers[0], TracedInt):
        label_new(walk, out, 0, numbers[0], "the length of arange")
        # Each channel meets a number of its own: they may go from the end, but not change places.
        walk.ledger.ordered += [s.numpy().ravel() for s in walk.shadows(out)]
    else:
        constant(walk, args, kwargs, out)


def raw_strides(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    walk.freeze(walk.shadows(args[0]), "raw strides")
    walk.set(out, [])


def grid_size(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """affine_grid(theta, (N, C, H, W)): the grid is the same for any number of channels."""
    size = args[1] if len(args) > 1 else kwargs["size"]
    constant(walk, [size[0], *size[2:]], {}, out)


def constant(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Any other operation: the numbers it gets do not change with the width."""

    def visit(value: Any) -> None:
        if isinstance(value, TracedInt):
            demand(walk, value, int(value), "an argument")
        elif isinstance(value, list | tuple):
            for v in value:
                visit(v)

    visit(list(args[1:] if args and isinstance(args[0], Tensor) else args))
    visit(list(kwargs.values()))


def scalar(walk: Walk, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Arithmetic with a number: whatever it is at that width is right."""


_TABLE: dict[Handler, str] = {
    view: "view reshape _unsafe_view",
    unflatten: "unflatten",
    expand: "expand broadcast_to",
    repeat: "repeat tile",
    split_sizes: "split split_with_sizes",
    chunk: "chunk tensor_split",
    getitem: "__getitem__",
    narrow: "narrow",
    layer_norm_shape: "layer_norm rms_norm",
    group_norm_groups: "group_norm",
    convolve: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    pad_amounts: "pad",
    factory: "zeros ones empty full rand randn new_zeros new_ones new_empty new_full",
    counting: "arange",
    raw_strides: "as_strided as_strided_",
    grid_size: "affine_grid affine_grid_generator",
    scalar: "mul __mul__ __rmul__ div __truediv__ __rtruediv__ true_divide add __add__ __radd__ sub __sub__ __rsub__ pow __pow__ "
    "size shape __get__ dim stride numel mul_ div_ add_ sub_ __eq__ __ne__ __lt__ __gt__ __le__ __ge__ eq ne lt gt le ge "
    "clamp clamp_ unbind multi_head_attention_forward _assert is_floating_point floor_divide __floordiv__ tensor softmax "
    "log_softmax __setitem__",
}
HANDLERS: dict[str, Handler] = {name: h for h, names in _TABLE.items() for name in names.split()}


def observe(walk: Walk, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Learn from one call in the model's code."""
    scaled(walk, name, args, kwargs)
    if name in HANDLERS:
        HANDLERS[name](walk, args, kwargs, out)
    elif outputs(out):
        constant(walk, args, kwargs, out)
