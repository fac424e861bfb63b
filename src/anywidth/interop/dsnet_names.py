"""What the tensors of DS-MBNet are called in files of the reference code."""

from __future__ import annotations

_LAYERS = {
    "depthwise.conv": "conv_dw",
    "depthwise.norm": "bn1",
    "depthwise.attention.squeeze.reduce": "gate.conv_reduce",
    "depthwise.attention.expand": "gate.conv_expand",
    "pointwise.conv": "conv_pw",
    "pointwise.norm": "bn2",
}


def reference_module(path: str) -> str:
    """A module of ours by its name in the files."""
    for module_path, reference_path in (
        ("stem.conv", "conv_stem"),
        ("stem.norm", "bn1"),
        ("classifier", "classifier"),
    ):
        if path == module_path:
            return reference_path
    # `stages.3.1.pointwise.norm` -> `blocks.3.residual_blocks.0.bn2`.
    _, stage, block, layer = path.split(".", 3)
    block_index = int(block)
    block_path = "first_block" if block_index == 0 else f"residual_blocks.{block_index - 1}"
    return f"blocks.{stage}.{block_path}.{_LAYERS[layer]}"
