import pytest

from anywidth.interop.dsnet_names import reference_module
from anywidth.models import DSMBNet
from dsnet_reference import shapes


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stem.conv", "conv_stem"),
        ("stem.norm", "bn1"),
        ("classifier", "classifier"),
        ("stages.0.0.depthwise.conv", "blocks.0.first_block.conv_dw"),
        ("stages.3.1.pointwise.norm", "blocks.3.residual_blocks.0.bn2"),
        ("stages.3.5.depthwise.norm", "blocks.3.residual_blocks.4.bn1"),
        ("stages.4.0.depthwise.attention.squeeze.reduce", "blocks.4.first_block.gate.conv_reduce"),
        ("stages.4.1.depthwise.attention.expand", "blocks.4.residual_blocks.0.gate.conv_expand"),
    ],
)
def test_names_in_the_files(ours, theirs):
    assert reference_module(ours) == theirs


def test_every_weight_has_a_name_of_its_own_in_the_files():
    paths = {name.rpartition(".")[0] for name, p in DSMBNet().named_parameters() if p.ndim > 1}
    names = [reference_module(path) for path in paths]
    assert len(set(names)) == len(paths) > 50
    assert {f"{name}.weight" for name in names} <= shapes().keys()


def test_a_layer_that_the_files_do_not_have():
    with pytest.raises(KeyError, match=r"depthwise\.other"):
        reference_module("stages.0.0.depthwise.other")
