"""Files of Joslim's reference code: weights, histories, pools and fronts; outputs against an independent program."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.errors import CheckpointError, WidthError
from anywidth.interop import joslim
from anywidth.interop.joslim import MODELS, decode, history, new, read_pareto, sample_pool, write_pareto
from deterministic_fill import filled
from joslim_reference import CIFAR, MOBILE, NAMES, Channels, Network, count, decoded, shapes
from joslim_tables import COUNTS, KINDS, vector

NAMED = (
    "slim_resnet20", "slim_resnet56", "slim_resnet18", "slim_resnet50", "slim_mobilenetv2", "slim_mobilenetv3_large",
    "slim_mobilenetv3_small",
)  # fmt: skip
VECTORS = ("1.0", "0.5", "ramp", "down", "alt")


def stored(name: str, classes: int = 7) -> dict[str, torch.Tensor]:
    counters = {n: torch.zeros(s, dtype=torch.int64) for n, s in shapes(name, classes).items() if s == ()}
    return filled({n: torch.empty(s) for n, s in shapes(name, classes).items()} | counters)


def contents(name: str, rows: int = 4, classes: int = 7, prefix: str = "") -> dict[str, object]:
    """What a run saves: four vectors, of which the last two have no loss yet."""
    random, net = np.random.default_rng(0), cifar()
    x = random.uniform(0.3, 1, (rows, count(name)))
    y = [[float(1 + i) if i < rows - 2 else 0.0, 0.1 * (i + 1)] for i in range(rows)]
    records = [{"loss": a, "flops": 1000.0 + i, "ratio": b, "filters": [[6]]} for i, (a, b) in enumerate(y)]
    return {
        "model_state_dict": {prefix + n: t for n, t in stored(name, classes).items()},
        "optim_state_dict": torch.optim.SGD(net.parameters(), 0.1, momentum=0.9).state_dict(),
        "epoch": 3,
        "population_data": records,
        "X": x,
        "Y": y,
        "ratio_visited": [0.5],
    }


def cifar() -> nn.Module:
    return MODELS["slim_resnet20"](num_classes=7)


def save(path: Path, name: str = "slim_resnet20", **options) -> Path:
    torch.save(contents(name, **options), path)
    return path


def load(path: Path, name: str, **options) -> aw.Elastic:
    return aw.interop.load(path, source="joslim", model=name, image_size=32, **options)


def relative(got, expected) -> float:
    return float((got - expected).norm() / expected.norm())


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def without_dropout(net: nn.Module) -> nn.Module:
    for m in net.modules():
        if isinstance(m, nn.Dropout):
            m.eval()
    return net


# --- the oracle is what the description says


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_has_the_published_layout(name):
    tensors = shapes(name, 100 if name in CIFAR else 1000)
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    sizes = [int(np.prod(s)) for n, s in tensors.items() if not n.endswith(kinds)]
    assert (len(tensors), sum(sizes)) == (COUNTS[name]["keys"], COUNTS[name]["stored"])
    assert count(name) == COUNTS[name]["search_dim"]


def outputs(module: nn.Module) -> list[int]:
    return [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("name", NAMES)
def test_vectors_decode_to_the_same_channels(name):
    net = new(name, image_size=32)
    for kind in KINDS:
        shares = vector(kind, count(name))
        small = net.extract(decode(net, shares)).features
        stages = [m for m in small if hasattr(m, "head")]
        found = Channels(
            stem=outputs(small)[0],
            first=outputs(small[1])[-1] if name in MOBILE else 0,
            stages=tuple(
                (outputs(stage)[-1], tuple(outputs(block)[0] for block in (stage.head, *stage.tail)))
                for stage in stages
            ),
        )
        assert found == decoded(name, shares)


def test_worked_example():
    net = new("slim_resnet20")
    width = decode(net, [0.42] * 12)
    assert sorted(set(width.values())) == [6, 13, 26]
    assert joslim.reference_macs(net, width) / joslim.reference_macs(net, 1.0) == pytest.approx(
        0.15635676, abs=5e-9
    )


# --- outputs


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


# --- vectors that cannot be


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5] * 11, "a vector of this JoslimCifarResNet has 12 entries, got 11"),
        ([0.5] * 3 + [0.0] + [0.5] * 8, r"entry 4 of the vector is 0\.0, expected a share in \(0, 1\]"),
        ([0.5] * 11 + [1.01], r"entry 12 of the vector is 1\.01"),
        ([float("nan")] + [0.5] * 11, "entry 1 of the vector is nan"),
        ([0.06] + [0.5] * 11, r"entry 1 of the vector is 0\.06: of 16 channels of features\.1\.head\.conv\.3 none would be left"),
        ([0.5, 0.05] + [0.5] * 10, r"of 16 channels of features\.1\.head\.conv\.0 none .*at least 1 / 16"),
    ],
)  # fmt: skip
def test_vectors_that_cannot_be(shares, message):
    with pytest.raises(WidthError, match=message):
        decode(new("slim_resnet20"), shares)


def test_a_stream_never_has_fewer_channels_than_the_one_before():
    net = new("slim_resnet20")
    width = decode(net, [1.0] * 4 + [0.01] + [0.5] * 3 + [0.125] + [0.5] * 3)
    assert [width[n] for n in ("features.0", "features.2.head.conv.3", "features.3.head.conv.3")] == [
        16,
        16,
        16,
    ]


def test_the_last_entry_of_a_mobilenet_is_not_used():
    net = new("slim_mobilenetv2", image_size=32)
    assert decode(net, [0.5] * 23 + [1.0]) == decode(net, [0.5] * 24)
    with pytest.raises(WidthError, match="entry 24 of the vector is 2"):
        decode(net, [0.5] * 23 + [2.0])


def test_networks_that_vectors_are_not_for():
    other = aw.Elastic(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
    with pytest.raises(
        WidthError, match=r"vectors of Joslim are for Joslim's networks, .*; this is a Sequential"
    ):
        decode(other, [0.5])
    frozen = new("slim_resnet20", freeze="features.1.head.conv.0")
    assert decode(frozen, [0.5, 1.0] + [0.5] * 10)["features.0"] == 8
    with pytest.raises(
        WidthError, match=r"features\.1\.head\.conv\.0: its 16 channels are frozen .* gives 8"
    ):
        decode(frozen, [0.5] * 12)


def test_networks_that_nothing_is_frozen_in():
    net = aw.Elastic(MODELS["slim_mobilenetv3_small"](), torch.zeros(1, 3, 32, 32))
    width = decode(net, [0.5] * 16)
    assert joslim.reference_macs(net, width) < joslim.reference_macs(net, 1.0)
    assert width["features.6.conv"] == 576


# --- files


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


def renamed(path: Path, old: bytes, changed: bytes) -> Path:
    """The file with other names in its pickle."""
    out = path.with_name(f"renamed-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, changed)
            target.writestr(name, data)
    return out


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_arrays_of_numpy_1_and_2(module, tmp_path):
    path = save(tmp_path / "a.pt")
    written = np._core.multiarray._reconstruct.__module__.encode()
    if module != written:
        path = renamed(path, b"c" + written + b"\n", b"c" + module + b"\n")
    assert len(history(path, new("slim_resnet20"))) == 4


@pytest.mark.parametrize(
    "x",
    [
        np.linspace(0.3, 1, 36).reshape(3, 12).astype(np.float32),
        np.asfortranarray(np.linspace(0.3, 1, 36).reshape(3, 12)),
        np.linspace(0.3, 1, 36).reshape(3, 12).astype(">f8"),
        np.linspace(0.3, 1, 72).reshape(3, 24)[:, ::2],
        np.ones((3, 12), np.int64),
    ],
    ids=["float32", "by columns", "big endian", "strided", "whole numbers"],
)
def test_layouts_of_arrays(x, tmp_path):
    torch.save({"X": x}, tmp_path / "a.pt")
    net = new("slim_resnet20")
    assert sample_pool(tmp_path / "a.pt", net) == [decode(net, row) for row in x.tolist()]


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["value", "element", "plain pickle"])
def test_files_that_would_run_code_are_refused(kind, tmp_path):
    path, marker = tmp_path / "a.pt", tmp_path / "ran"
    evil = Evil(marker)
    found = contents("slim_resnet20") | {"X": np.array([[evil]], dtype=object) if kind == "element" else evil}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(found))
    else:
        torch.save(found, path)
    net = new("slim_resnet20")
    for read in (
        lambda: load(path, "slim_resnet20"),
        lambda: history(path, net),
        lambda: sample_pool(path, net),
    ):
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            read()
    assert not marker.exists()
    pickle.loads(pickle.dumps(evil))
    assert marker.exists()  # it would have run


@pytest.mark.parametrize(
    "x", [np.array(["a", "b"]), np.array([(1, 2.0)], dtype="i4,f8"), np.array([1 + 2j]), np.float64(3)]
)
def test_other_arrays_are_refused(x, tmp_path):
    torch.save({"X": x}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read|expected an array of vectors, .* got float"):
        sample_pool(tmp_path / "a.pt", new("slim_resnet20"))


def test_an_array_that_was_cut(tmp_path):
    torch.save({"X": np.ones((2, 12))}, tmp_path / "a.pt")
    path = renamed(tmp_path / "a.pt", b"K\x02K\x0c", b"K\x03K\x0c")
    with pytest.raises(CheckpointError, match=r"array of shape \(3, 12\) with 24 numbers"):
        sample_pool(path, new("slim_resnet20"))


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


# --- what a search leaves behind


def test_a_history(tmp_path):
    net = new("slim_resnet20")
    found, saved = history(save(tmp_path / "a.pt"), net), contents("slim_resnet20")
    assert [p.loss for p in found] == [1.0, 2.0, None, None]
    assert [p.macs for p in found] == [1000, 1001, 1002, 1003]
    assert [p.ratio for p in found] == [ratio for _, ratio in saved["Y"]]
    assert [p.vector for p in found] == [tuple(row) for row in saved["X"].tolist()]
    assert [p.width for p in found] == [decode(net, row) for row in saved["X"]]


def test_histories_that_are_not(tmp_path):
    net, saved, path = new("slim_resnet20"), contents("slim_resnet20"), tmp_path / "a.pt"
    torch.save(saved | {"X": None}, path)
    assert history(path, net) == []
    for changed, message in (
        ({"Y": saved["Y"][:2]}, "entries of different number: {'X': 4, 'Y': 2, 'population_data': 4}"),
        ({"X": saved["X"][0]}, r"expected an array of vectors, one per row, as 'X'; got \(12,\)"),
        ({"X": [[0.5] * 12]}, "as 'X'; got list"),
        (
            {"Y": [[1.0]] * 4},
            r"expected \[loss, ratio\] and a record with flops for each vector, got \[1.0\]",
        ),
        ({"population_data": [{}] * 4}, "a record with flops"),
    ):
        torch.save(saved | changed, path)
        with pytest.raises(CheckpointError, match=message):
            history(path, net)
    torch.save(saved["model_state_dict"], path)
    with pytest.raises(CheckpointError, match="holds no 'X' and no 'Y' and no 'population_data'"):
        history(path, net)
    torch.save(saved, path)
    with pytest.raises(WidthError, match="a vector of this JoslimCifarResNet has 18 entries, got 12"):
        history(path, new("slim_resnet32"))


ROWS = ([0.15635676338, 0.25523867591, 1.0], [45.5, 50.25, 60.0], [75.0, 80.125, 90.0])


def test_fronts(tmp_path):
    ours, theirs = tmp_path / "ours.txt", tmp_path / "theirs.txt"
    write_pareto(ours, *ROWS)
    np.savetxt(theirs, np.array(ROWS))
    assert ours.read_bytes() == theirs.read_bytes()
    found = read_pareto(theirs)
    assert (list(found.ratios), list(found.top1), list(found.top5)) == ROWS
    write_pareto(ours, [1.0], [60.0], [90.0])
    assert read_pareto(ours).top5 == (90.0,)


def test_fronts_that_are_not(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("", "1 2\n3 4\n", "1 2\n3 4\n5\n"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match="expected three rows of equal length"):
            read_pareto(path)
    path.write_text("a b\n")
    with pytest.raises(CheckpointError, match="expected a text of three rows of numbers"):
        read_pareto(path)
    with pytest.raises(CheckpointError, match="expected a text of three rows of numbers"):
        read_pareto(tmp_path / "none.txt")
    for rows in (([1.0], [2.0], []), ([1.0], [2.0], [float("nan")])):
        with pytest.raises(ValueError, match="expected three rows of as many finite numbers"):
            write_pareto(path, *rows)
