"""DS-MBNet as a function of a state dict, written from a description of the published code, in its layout.

Nothing of anywidth is used: tables, names and forward are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TABLES = (
    [16, 24],
    [32, 88],
    [48, 168],
    [96, 264],
    [224 + 32 * k for k in range(14)],
    [736 + 32 * k for k in range(14)],
)
BLOCKS, STRIDES = (1, 2, 2, 6, 2), (1, 2, 2, 2, 2)
HEAD = "blocks.3.first_block.gate.gate.0.weight"
# Stage 3, stage 4, multiply-adds with average pools, parameters, multiply-adds in millions as published.
ROWS = (
    (224, 736, 132_890_144, 2_660_364, 133), (256, 768, 152_917_184, 2_935_180, 153),
    (288, 800, 175_151_968, 3_224_332, 175), (320, 832, 199_594_496, 3_527_820, 200),
    (352, 864, 226_244_768, 3_845_644, 226), (384, 896, 255_102_784, 4_177_804, 255),
    (416, 928, 286_168_544, 4_524_300, 286), (448, 960, 319_442_048, 4_885_132, 319),
    (480, 992, 354_923_296, 5_260_300, 355), (512, 1024, 392_612_288, 5_649_804, 393),
    (544, 1056, 432_509_024, 6_053_644, 433), (576, 1088, 474_613_504, 6_471_820, 475),
    (608, 1120, 518_925_728, 6_904_332, 519), (640, 1152, 565_445_696, 7_351_180, 565),
)  # fmt: skip
LARGEST = (640, 1152, 819_883_136, 7_675_940)


def channels(label: int | str) -> list[int]:
    """Of the stem and of the five stages."""
    if label == "largest":
        return [table[-1] for table in TABLES]
    k = 0 if label == "smallest" else int(label)
    return [16, 32, 48, 96, TABLES[4][k], TABLES[5][k]]


def blocks() -> Iterator[tuple[str, int, int, int]]:
    """Path, tables of the input and of the output, stride."""
    for s, (count, stride) in enumerate(zip(BLOCKS, STRIDES, strict=True)):
        yield f"blocks.{s}.first_block", s, s + 1, stride
        for j in range(count - 1):
            yield f"blocks.{s}.residual_blocks.{j}", s + 1, s + 1, 1


def shapes(classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Names of all tensors in a file, with shapes, in its order."""
    found: dict[str, tuple[int, ...]] = {"conv_stem.weight": (24, 3, 3, 3)}

    def norm(path: str, table: Sequence[int]) -> None:
        for i, c in enumerate(table):
            if i == len(table) - 1:
                found.update({f"{path}.aux_bn.{i}.weight": (c,), f"{path}.aux_bn.{i}.bias": (c,)})
            found.update({f"{path}.aux_bn.{i}.running_mean": (c,), f"{path}.aux_bn.{i}.running_var": (c,)})
            found[f"{path}.aux_bn.{i}.num_batches_tracked"] = ()

    norm("bn1", TABLES[0])
    for path, a, b, _ in blocks():
        inside, out = TABLES[a][-1], TABLES[b][-1]
        hidden = inside // 4
        found[f"{path}.conv_dw.weight"] = (inside, 1, 3, 3)
        norm(f"{path}.bn1", TABLES[a])
        found[f"{path}.gate.conv_reduce.weight"] = (hidden, inside, 1, 1)
        found[f"{path}.gate.conv_reduce.bias"] = (hidden,)
        found[f"{path}.gate.conv_expand.weight"] = (inside, hidden, 1, 1)
        found[f"{path}.gate.conv_expand.bias"] = (inside,)
        if path == "blocks.3.first_block":
            found[HEAD] = (4, 66, 1, 1)
        found[f"{path}.conv_pw.weight"] = (out, inside, 1, 1)
        norm(f"{path}.bn2", TABLES[b])
    return found | {"classifier.weight": (classes, 1152), "classifier.bias": (classes,)}


def forward(state: Mapping[str, Tensor], x: Tensor, widths: Sequence[int]) -> Tensor:
    """Logits in evaluation; `widths` are channels of the stem and of the stages."""

    def norm(path: str, y: Tensor, table: int) -> Tensor:
        c, sizes = y.shape[1], TABLES[table]
        own, last = f"{path}.aux_bn.{sizes.index(c)}", f"{path}.aux_bn.{len(sizes) - 1}"
        mean, variance = (state[f"{own}.running_{kind}"][None, :, None, None] for kind in ("mean", "var"))
        scale, shift = (state[f"{last}.{kind}"][None, :c, None, None] for kind in ("weight", "bias"))
        return (y - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def swish(y: Tensor) -> Tensor:
        return y * torch.sigmoid(y)

    x = F.conv2d(x, state["conv_stem.weight"][: widths[0]], stride=2, padding=1)
    x = swish(norm("bn1", x, 0))
    for path, a, b, stride in blocks():
        c, out = widths[a], widths[b]
        x = F.conv2d(x, state[f"{path}.conv_dw.weight"][:c], stride=stride, padding=1, groups=c)
        x = swish(norm(f"{path}.bn1", x, a))
        gate = f"{path}.gate.conv"
        mean = x.mean((2, 3), keepdim=True)
        hidden = F.conv2d(mean, state[f"{gate}_reduce.weight"][:, :c], state[f"{gate}_reduce.bias"]).relu()
        logits = F.conv2d(hidden, state[f"{gate}_expand.weight"][:c], state[f"{gate}_expand.bias"][:c])
        x = F.conv2d(x * torch.sigmoid(logits), state[f"{path}.conv_pw.weight"][:out, :c])
        x = swish(norm(f"{path}.bn2", x, b))
    features = x.mean((2, 3))
    return features @ state["classifier.weight"][:, : widths[5]].T + state["classifier.bias"]
