"""Files of Joslim's reference code: weights, histories, pools and fronts; outputs against an independent program."""

import numpy as np
import pytest
import torch
from torch import nn

from anywidth.errors import CheckpointError
from anywidth.interop.joslim import decode
from joslim_files import load, save, stored
from joslim_reference import CIFAR, NAMES, Network, count, shapes
from joslim_tables import COUNTS, vector

NAMED = (
    "slim_resnet20", "slim_resnet56", "slim_resnet18", "slim_resnet50", "slim_mobilenetv2", "slim_mobilenetv3_large",
    "slim_mobilenetv3_small",
)  # fmt: skip


VECTORS = ("1.0", "0.5", "ramp", "down", "alt")


def relative(got, expected) -> float:
    return float((got - expected).norm() / expected.norm())


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def without_dropout(net: nn.Module) -> nn.Module:
    for m in net.modules():
        if isinstance(m, nn.Dropout):
            m.eval()
    return net


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_has_the_published_layout(name):
    tensors = shapes(name, 100 if name in CIFAR else 1000)
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    sizes = [int(np.prod(s)) for n, s in tensors.items() if not n.endswith(kinds)]
    assert (len(tensors), sum(sizes)) == (COUNTS[name]["keys"], COUNTS[name]["stored"])
    assert count(name) == COUNTS[name]["search_dim"]


@pytest.mark.parametrize("name", NAMED)
def test_a_loaded_network_computes_what_the_reference_computes(name, tmp_path):
    net = load(save(tmp_path / "a.pt", name), name).double()
    state = {n: t.double() if t.is_floating_point() else t for n, t in stored(name).items()}
    x = images(4, 3, 18, 17) if name in CIFAR else images(4, 3, 64, 64)
    with torch.no_grad():
        assert relative(net.eval()(x), Network(name, state, training=False)(x, [1.0] * count(name))) < 1e-10
        reference = Network(name, state, training=True)
        results = []
        for kind in VECTORS:
            shares = vector(kind, count(name))
            view = without_dropout(net.train().at(decode(net, shares)))
            results.append(reference(x, shares))
            assert relative(view(x), results[-1]) < 1e-10
    assert all(relative(a, b) > 1e-3 for a, b in zip(results[1:], results, strict=False))


@pytest.mark.parametrize("name", ["slim_resnet18", "slim_mobilenetv3_small"])
def test_any_vector(name, tmp_path):
    net = load(save(tmp_path / "a.pt", name), name).double().train()
    state = {n: t.double() if t.is_floating_point() else t for n, t in stored(name).items()}
    reference, random, x = Network(name, state, training=True), np.random.default_rng(1), images(3, 3, 32, 32)
    with torch.no_grad():
        for _ in range(5):
            shares = random.uniform(0.2, 1, count(name))
            assert relative(net.at(decode(net, shares))(x), reference(x, shares)) < 1e-10


def test_wrapped_files_and_those_without_arrays(tmp_path):
    x = images(2, 3, 16, 16)
    expected = load(save(tmp_path / "a.pt"), "slim_resnet20").double().eval()(x)
    wrapped = load(save(tmp_path / "b.pt", prefix="module."), "slim_resnet20")
    torch.save(stored("slim_resnet20"), tmp_path / "c.pt")
    for net in (wrapped, load(tmp_path / "c.pt", "slim_resnet20", num_classes=7)):
        assert torch.equal(net.double().eval()(x), expected)


def test_widths_and_classes(tmp_path):
    path = save(tmp_path / "a.pt")
    net = load(path, "slim_resnet20", widths=[0.5, 1.0], norm="switchable")
    assert list(net.widths) == [0.5, 1.0]
    assert net.model.classifier[0].out_channels == 7
    with pytest.raises(CheckpointError, match="holds 7 classes, expected num_classes = 100"):
        load(path, "slim_resnet20", num_classes=100)


def test_damaged_and_foreign_files(tmp_path):
    path = save(tmp_path / "a.pt")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "cut.pt", "slim_resnet20")
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.pt", "slim_resnet20")
    with pytest.raises(
        CheckpointError, match=r"does not fit slim_resnet32: .*missing \(features\.1\.tail\.2"
    ):
        load(path, "slim_resnet32")
    with pytest.raises(CheckpointError, match=r"'classifier\.1\.weight' of the classifier is missing"):
        load(path, "slim_mobilenetv2")
    with pytest.raises(CheckpointError, match="unknown model of joslim 'slim_resnet21'; did you mean"):
        load(path, "slim_resnet21")
    with pytest.raises(CheckpointError, match="source 'joslim' takes no model_options"):
        load(path, "slim_resnet20", model_options={"depth": 20})
    state = stored("slim_resnet20")
    for broken, message in (
        (
            {"features.0.weight": torch.zeros(16, 3, 3, 3)},
            r"features\.0\.weight is \[16, 3, 3, 3\] in the file",
        ),
        ({"features.1.bias": torch.zeros(3)}, r"1 unexpected \(features\.1\.bias\)"),
    ):
        torch.save(state | broken, tmp_path / "b.pt")
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "b.pt", "slim_resnet20")
