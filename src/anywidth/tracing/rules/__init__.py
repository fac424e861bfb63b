"""One table: ATen operation -> what it does to channel labels.

A rule is `rule(walk, func, args, kwargs, out)`, called after the operation ran; it reads the shadows of the inputs,
writes those of the outputs, and tells the ledger which labels are equal. Operations are ATen's, so that einsum,
attention, GLU and everything else composite arrives here already taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from anywidth.tracing.labels import varying
from anywidth.tracing.rules.contraction import (
    addmm,
    attention,
    bmm,
    convolution,
    deformable_convolution,
    matvec,
)
from anywidth.tracing.rules.fake_quantization import fake_quantise_per_channel, observe_and_fake_quantise
from anywidth.tracing.rules.joining import cat, copy_into, pad, stack
from anywidth.tracing.rules.losses import class_loss, elementwise_loss, sequence_loss
from anywidth.tracing.rules.movement import (
    as_strided,
    complex_view,
    embedding,
    embedding_bag,
    fourier,
    glu,
    index,
    index_along,
    masked_select,
    move,
    move_as_float,
    pixel_shuffle,
    roll,
    same,
    scan,
    select,
    shuffle,
    slice_,
)
from anywidth.tracing.rules.norm import batch_norm, group_norm, layer_norm, weight_norm
from anywidth.tracing.rules.products import (
    batch_sum,
    distances,
    dot,
    grouped,
    matvec_sum,
    outer_sum,
    own_distances,
    sparse_addmm,
    trilinear,
)
from anywidth.tracing.rules.recurrent import fused_cell, pack
from anywidth.tracing.rules.reduction import (
    col2im,
    im2col,
    mean,
    overlap_add,
    pointwise,
    random_pool,
    reduce,
    segments,
    spatial,
    unpool,
)
from anywidth.tracing.rules.scattering import index_put, masked_scatter, scatter, write_along
from anywidth.tracing.rules.selection import arg_extremum, extremum, places, ranked, running_extremum
from anywidth.tracing.trace_state import Walk, outputs

aten = torch.ops.aten
Rule = Callable[[Walk, Any, Sequence[Any], dict[str, Any], Any], None]


def roi_pool(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    walk.set(outputs(out)[0], [s for s in walk.shadows(args[0]) if varying(s) == [1]])


def blank_like(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    walk.set(out, walk.shadows(args[0]))


def blank_new(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    walk.blank(out)


def grid(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Places in space, from a matrix (N, 2, 3) whose numbers all have a meaning of their own."""
    walk.freeze(walk.shadows(args[0]), "entries of an affine map")


def nothing(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """No channels come out (fresh tensors, sizes, comparisons of indices)."""


# Shapes in rules: a tensor (N, C, H, W) whose channels are elastic has the shadow (1, C, 1, 1). `permute`, `reshape` and
# others of the first line are applied to that shadow, expanded to the full shape, and what comes out is the new shadow.
_TABLE: dict[Rule, str] = {
    move: "view _unsafe_view reshape permute transpose t expand squeeze unsqueeze repeat "
    "unfold flip movedim diagonal split split_with_sizes unsafe_split unsafe_split_with_sizes chunk _reshape_alias "
    "tril triu rot90 swapaxes",
    move_as_float: "pixel_unshuffle",
    pixel_shuffle: "pixel_shuffle",
    shuffle: "channel_shuffle native_channel_shuffle",
    scan: "cumsum cumprod logcumsumexp",
    running_extremum: "cummax cummin",
    ranked(1): "sort argsort mode",
    ranked(2): "topk kthvalue",
    arg_extremum: "argmax argmin",
    extremum: "max min median nanmedian",
    places: "nonzero multinomial",
    weight_norm: "_weight_norm_interface",
    fourier: "_fft_r2c _fft_c2r _fft_c2c",
    complex_view: "view_as_real view_as_complex",
    pointwise: "_prelu_kernel prelu rrelu_with_noise rrelu_with_noise_functional",
    as_strided: "as_strided",
    slice_: "slice",
    select: "select unbind",
    glu: "glu",
    index: "index _unsafe_index",
    index_along: "index_select gather",
    write_along: "index_add index_copy index_reduce index_fill",
    scatter: "scatter scatter_add scatter_reduce",
    masked_scatter: "masked_scatter",
    masked_select: "masked_select",
    unpool(2): "max_unpool2d",
    unpool(3): "max_unpool3d",
    random_pool(2): "fractional_max_pool2d",
    random_pool(3): "fractional_max_pool3d",
    overlap_add: "unfold_backward",
    segments: "segment_reduce",
    roll: "roll",
    embedding: "embedding",
    embedding_bag: "_embedding_bag _embedding_bag_forward_only",
    pack: "_pack_padded_sequence",
    fused_cell(4): "_thnn_fused_lstm_cell",
    fused_cell(3): "_thnn_fused_gru_cell",
    class_loss: "nll_loss_forward nll_loss2d_forward multi_margin_loss",
    sequence_loss: "_ctc_loss _cudnn_ctc_loss",
    elementwise_loss: "mse_loss huber_loss smooth_l1_loss binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss",
    pad: "constant_pad_nd",
    cat: "cat concat",
    stack: "stack",
    copy_into: "copy_ copy",
    index_put: "index_put _index_put_impl _unsafe_index_put",
    same: "log_sigmoid_forward hardswish hardsigmoid hardtanh relu6 silu mish gelu elu celu selu leaky_relu softplus clone alias detach contiguous lift_fresh _softmax _log_softmax softmax log_softmax native_dropout _to_copy _conj "
    "_safe_softmax bernoulli bernoulli_ normal_ uniform_ exponential_ geometric_ cauchy_ log_normal_ random_ fill_ zero_ dropout clamp masked_fill masked_fill_ "
    "_fake_quantize_learnable_per_tensor_affine",
    reduce: "sum amax amin var std var_mean std_mean prod any all logsumexp linalg_vector_norm norm "
    "count_nonzero",
    mean: "mean",
    spatial(
        1
    ): "avg_pool1d max_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_linear1d upsample_nearest1d reflection_pad1d "
    "replication_pad1d max_pool1d_with_indices",
    spatial(
        2
    ): "avg_pool2d max_pool2d max_pool2d_with_indices _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "reflection_pad2d replication_pad2d grid_sampler_2d _upsample_nearest_exact2d",
    spatial(
        3
    ): "avg_pool3d max_pool3d max_pool3d_with_indices _adaptive_avg_pool3d adaptive_avg_pool3d upsample_trilinear3d "
    "upsample_nearest3d reflection_pad3d replication_pad3d adaptive_max_pool3d",
    im2col: "im2col",
    col2im: "col2im",
    batch_norm: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_with_update _batch_norm_no_update miopen_batch_norm",
    fake_quantise_per_channel: "fake_quantize_per_channel_affine_cachemask _fake_quantize_learnable_per_channel_affine",
    observe_and_fake_quantise: "_fused_moving_avg_obs_fq_helper",
    layer_norm: "native_layer_norm",
    group_norm: "native_group_norm",
    bmm: "mm bmm",
    addmm: "addmm baddbmm",
    matvec: "mv",
    dot: "dot vdot",
    outer_sum: "addr",
    matvec_sum: "addmv",
    batch_sum: "addbmm",
    trilinear: "_trilinear",
    distances: "_cdist_forward _euclidean_dist",
    own_distances: "_pdist_forward",
    grouped: "_grouped_mm",
    sparse_addmm: "_sparse_addmm",
    convolution: "convolution _convolution cudnn_convolution mkldnn_convolution",
    attention: "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu",
    blank_like: "zeros_like ones_like empty_like full_like rand_like randn_like bernoulli.p",
    grid: "affine_grid_generator",
    blank_new: "zeros ones empty full new_zeros new_empty new_ones new_full",
    nothing: "arange linspace eye rand randn scalar_tensor "
    "_local_scalar_dense unique _unique2 bucketize meshgrid randint randperm empty_strided new_empty_strided "
    "item is_nonzero equal _assert_async tensor sym_size",
    deformable_convolution: "deform_conv2d",
    roi_pool: "roi_align roi_pool ps_roi_align",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _TABLE.items() for name in names.split()}


_OURS = ("aten", "prims", "torchvision")
"""Namespaces of operations that the table is about: another library's `roll` may be anything."""
_registered: dict[str, Rule] = {"transformers::grouped_mm_fallback": grouped}


def register_rule(*operations: str) -> Callable[[Rule], Rule]:
    """Say what operations of another library do to channel labels; a decorator for `rule(walk, func, args, kwargs, out)`.

    The rule is called after the operation ran. It reads the shadows of the inputs (`walk.shadows`, `walk.elementwise`), writes
    those of the outputs (`walk.set`), and says which labels are equal (`walk.together`) or cannot be narrowed (`walk.freeze`).
    Operations without a rule freeze what they touch.

    Args:
        operations: with their namespace, like "mylib::fused_norm"; all overloads. Also operations of torch that have no rule yet.

    Raises:
        ValueError: a name without namespace, one of torch's own, one that no library has registered, or one that has another
            rule already.
    """
    for operation in operations:
        namespace, separator, name = operation.partition("::")
        if not separator:
            raise ValueError(
                f"register_rule({operation!r}): expected NAMESPACE::NAME, like 'mylib::fused_norm'"
            )
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is None:
            raise ValueError(
                f"register_rule({operation!r}): there is no such operation; import what defines it before its rule"
            )
        known = operation in _registered or any(rule_for(getattr(packet, o)) for o in packet.overloads())
        if namespace in _OURS and known:
            raise ValueError(
                f"register_rule({operation!r}): operations of {namespace} have rules here; register one that has none, or of your own "
                "namespace"
            )

    def register(rule: Rule) -> Rule:
        for operation in operations:
            if _registered.setdefault(operation, rule) is not rule:
                raise ValueError(
                    f"register_rule({operation!r}): there is a rule already, {_registered[operation].__name__}"
                )
        return rule

    return register


def rule_for(func: Any) -> Rule | None:
    """The rule of an operation's overload; None if there is none."""
    operation = func.name().split(".")[0]  # "aten::add.Tensor" -> "aten::add"
    if operation in _registered:
        return _registered[operation]
    namespace, _, name = operation.partition("::")
    if namespace not in _OURS:
        return pointwise if torch.Tag.pointwise in func.tags else None
    if name in RULES:
        return RULES[name]
    if name == "_fused_rms_norm":
        return layer_norm
    if torch.Tag.pointwise in func.tags:
        return pointwise
    if name.endswith("_") and not name.endswith("__"):
        return _in_place(name[:-1])
    return None


def _in_place(name: str) -> Rule | None:
    """The rule of the operation that an in-place one is a form of; not all in-place forms carry their tags."""
    if name in RULES:
        return RULES[name]
    packet = getattr(aten, name, None)
    overloads = [getattr(packet, o) for o in packet.overloads()] if packet is not None else []
    return pointwise if any(torch.Tag.pointwise in o.tags for o in overloads) else None
