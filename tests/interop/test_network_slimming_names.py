import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.interop.network_slimming_names import FAMILIES, MODELS, check_family, family_of, reference_name
from slimming_tables import SIZES


def test_all_names_are_networks():
    assert {m for m in MODELS if m != "densenet100"} <= {n for n in SIZES if " " not in n}


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("vgg", "features.4.running_mean", "feature.4.running_mean"),
        ("vgg", "classifier.weight", "classifier.weight"),
        ("vgg_a", "features.0.weight", "features.0.weight"),
        ("resnet", "features.stem.weight", "conv1.weight"),
        ("resnet", "features.norm.bias", "bn.bias"),
        ("resnet", "classifier.bias", "fc.bias"),
        ("resnet", "features.stage2.1.conv3.weight", "layer2.1.conv3.weight"),
        ("resnet", "features.stage1.0.bn1.index", "layer1.0.select.indexes"),
        ("resnet", "features.stage3.0.shortcut.weight", "layer3.0.downsample.0.weight"),
        ("densenet", "features.block1.11.norm.index", "dense1.11.select.indexes"),
        ("densenet", "features.block1.11.conv.weight", "dense1.11.conv1.weight"),
        ("densenet", "features.transition2.norm.weight", "trans2.bn1.weight"),
    ],
)
def test_names_in_the_files(family, name, expected):
    assert reference_name(FAMILIES[family], name) == expected


def test_a_name_is_a_family_and_a_depth():
    assert family_of("resnet164") == ("resnet", 164)
    assert family_of("densenet40") == ("densenet", 40)
    assert family_of("vgg_a") == ("vgg_a", None)
    for name in ("vgg", "resnet-20", "vgg_b"):
        with pytest.raises(CheckpointError, match=f"unknown model of network-slimming '{name}'"):
            family_of(name)


def test_files_of_another_family_are_told_apart_by_a_name_in_them():
    state = {"layer1.0.bn1.weight": torch.ones(1)}
    check_family("resnet", "resnet20", state)
    with pytest.raises(CheckpointError, match="so it is no vgg11 but a resnet of some depth"):
        check_family("vgg", "vgg11", state)
    with pytest.raises(CheckpointError, match="so it is no vgg11 but a vgg_a; give its name"):
        check_family("vgg", "vgg11", {"features.0.weight": torch.ones(1)})
    with pytest.raises(
        CheckpointError, match=r"expected 'feature\.0\.weight' for vgg11, got names like 'a', 'b', 'c'"
    ):
        check_family("vgg", "vgg11", dict.fromkeys("abcd", torch.ones(1)))
