"""Imported checkpoints compute what the reference computes, at every kind of width, for all ten models."""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import anywidth as aw
from anywidth.errors import CheckpointError, WidthError
from anywidth.interop.slimmable_networks import LISTS, MODELS, new
from reference import WIDTHS, Reference

# Entries of the state dict, conv and linear parameters, all parameters, elements of buffers, as published.
STORED = {
    "s_mobilenet_v1": (569, 4_210_088, 4_264_808, 54_828),
    "s_mobilenet_v2": (1079, 3_470_760, 3_556_456, 85_901),
    "s_resnet50": (1115, 25_503_912, 25_636_712, 133_012),
    "s_shufflenet": (1842, 5_401_816, 5_487_496, 86_025),
    "us_mobilenet_v1": (2594, 4_210_088, 4_231_976, 425_221),
    "us_mobilenet_v2": (4292, 3_470_760, 3_504_872, 594_498),
    "autoslim_mobilenet_v1": (434, 4_633_088, 4_685_904, 52_897),
    "autoslim_mobilenet_v2": (834, 6_450_840, 6_564_808, 114_124),
    "autoslim_mnasnet": (834, 8_286_768, 8_411_232, 124_620),
    "autoslim_resnet50": (1115, 23_134_584, 23_301_816, 167_444),
}


X = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def save(path: Path, reference: Reference, wrap: str | None = "model") -> Path:
    state = reference.checkpoint()
    torch.save({wrap: state} if wrap else state, path)
    return path


def relative(got, expected) -> float:
    return float((got - expected).norm() / expected.norm())


def compare(net, reference, switches) -> None:
    net = net.double().eval()
    labels = list(net.widths)
    for i in switches:
        with torch.no_grad():
            got = net.at(labels[i])(X)
        assert relative(got, reference.forward(X, i)) < 1e-9, labels[i]


@pytest.mark.parametrize("model", MODELS)
def test_an_imported_checkpoint_computes_what_the_reference_computes(model, tmp_path):
    reference = Reference(model)
    sizes = {k: v.numel() for k, v in reference.state.items()}
    buffers = {
        k: n
        for k, n in sizes.items()
        if k.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
    }
    plain = sum(
        n
        for k, n in sizes.items()
        if k.startswith("classifier") or (k.endswith("weight") and reference.state[k].ndim > 1)
    )
    stored = (len(sizes), plain, sum(sizes.values()) - sum(buffers.values()), sum(buffers.values()))
    assert stored == STORED[model]  # the oracle has the layout of the published files
    net = aw.interop.load(
        save(tmp_path / "a.pt", reference), source="slimmable_networks", model=model, image_size=64
    )
    assert list(net.widths) == list(reference.widths)
    count = len(reference.widths)
    compare(net, reference, sorted({0, 1, count // 2, count - 1}))


def test_the_comparison_sees_another_width(tmp_path):
    reference = Reference("s_mobilenet_v1")
    net = aw.interop.load(
        save(tmp_path / "a.pt", reference), "slimmable_networks", "s_mobilenet_v1", image_size=64
    )
    net = net.double().eval()
    with torch.no_grad():
        assert relative(net.at(0.5)(X), reference.forward(X, 2)) > 0.01


@pytest.mark.parametrize("wrap", [None, "state_dict"])
def test_old_files_without_counters_bare_or_wrapped(tmp_path, wrap):
    reference = Reference("s_mobilenet_v1")
    path = save(tmp_path / "a.pth", reference, wrap)
    found = torch.load(path, weights_only=True)
    state = found[wrap] if wrap else found
    for key in [key for key in state if key.endswith("num_batches_tracked")]:
        del state[key]
    torch.save(found, path)
    compare(aw.interop.load(path, "slimmable_networks", "s_mobilenet_v1", image_size=64), reference, range(4))


def test_a_universal_network_that_was_not_calibrated(tmp_path):
    reference = Reference("us_mobilenet_v1", (0.25, 1.0))
    path = save(tmp_path / "a.pt", reference)
    net = aw.interop.load(path, "slimmable_networks", "us_mobilenet_v1", image_size=64)
    assert list(net.widths) == [0.25, 1.0]
    assert not net.has_statistics(0.5)
    compare(net, reference, (0, 1))
    net.calibrate([X], widths=[0.5], batches=1)
    assert net.has_statistics(0.5)


def test_widths_in_the_order_of_the_file(tmp_path):
    widths = (0.25, 1.0, 0.625, 0.375)
    reference = Reference("us_mobilenet_v1", widths)
    reference.state.clear()
    reference.forward(X[:1], 1)
    path = save(tmp_path / "a.pt", reference)
    net = aw.interop.load(path, "slimmable_networks", "us_mobilenet_v1", widths=widths, image_size=64)
    compare(net, reference, range(4))


def test_a_width_that_stands_twice_has_its_first_entry(tmp_path):
    widths = (0.25, 1.0, 0.25, 0.5, 1.0)  # smallest, largest, and then all that were tested
    reference = Reference("us_mobilenet_v1", widths)
    path = save(tmp_path / "a.pt", reference)
    net = aw.interop.load(path, "slimmable_networks", "us_mobilenet_v1", widths, image_size=64)
    assert list(net.widths) == [0.25, 1.0, 0.5]
    net = net.double().eval()
    with torch.no_grad():
        for i in (0, 1, 3):
            assert relative(net.at(widths[i])(X), reference.forward(X, i)) < 1e-9
        assert relative(net.at(0.25)(X), reference.forward(X, 2)) > 0.01


@pytest.mark.parametrize("model", ["s_mobilenet_v1", "us_mobilenet_v1"])
def test_two_widths_of_the_same_channels_are_refused(tmp_path, model):
    """Their norms differ in the file; the later would take the place of the earlier without a word."""
    widths = (0.25, 0.2501, 1.0)
    path = save(tmp_path / "a.pt", Reference(model, widths))
    with pytest.raises(CheckpointError, match=r"widths 0\.25 and 0\.2501 have the same channels"):
        aw.interop.load(path, "slimmable_networks", model, widths, image_size=64)


def test_statistics_that_were_reset_and_never_measured_do_not_count(tmp_path):
    """As the released calibration leaves those of universal networks."""
    reference = Reference("us_mobilenet_v1", (0.25, 0.5, 1.0))
    for key, tensor in reference.state.items():
        if ".bn.1." in key and not key.endswith("num_batches_tracked"):
            tensor.fill_(float(key.endswith("running_var")))
    path = save(tmp_path / "a.pt", reference)
    net = aw.interop.load(path, "slimmable_networks", "us_mobilenet_v1", (0.25, 0.5, 1.0), image_size=64)
    assert [net.has_statistics(w) for w in net.widths] == [True, False, True]
    with pytest.raises(aw.errors.StatisticsError, match=r"width 0\.5 has no batch-norm statistics"):
        net.eval().at(0.5)(X.float())


@pytest.mark.parametrize("kind", ["before 2020", "half precision", "safetensors"])
def test_kinds_of_files(tmp_path, kind):
    reference = Reference("s_mobilenet_v1")
    state = reference.checkpoint()
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "before 2020":
        torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    else:
        halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        torch.save({"model": halves}, path)
        reference.state = {k.removeprefix("module."): v.double() for k, v in halves.items()}
    net = aw.interop.load(path, "slimmable_networks", "s_mobilenet_v1", image_size=64)
    compare(net, reference, (0, 3))


@pytest.mark.parametrize(
    ("model", "widths"),
    [
        ("s_mobilenet_v1", (0.3, 0.6)),
        ("s_mobilenet_v1", (0.5, 1.0, 1.5)),
        ("s_mobilenet_v2", (0.4, 0.8)),
        ("s_mobilenet_v2", (0.5, 1.4)),
        ("s_resnet50", (0.125, 0.375)),
        ("s_shufflenet", (0.5, 1.0)),
        ("s_shufflenet", (0.5, 1.5)),
    ],
)
def test_slimmable_networks_of_other_widths(model, widths, tmp_path):
    """Their tensors have the size of the widest in the list."""
    reference = Reference(model, widths)
    net = aw.interop.load(
        save(tmp_path / "a.pt", reference), "slimmable_networks", model, widths, image_size=64
    )
    assert list(net.widths) == list(widths)
    compare(net, reference, range(len(widths)))


def test_an_imported_network_is_saved_and_trained_like_any(tmp_path):
    reference = Reference("s_mobilenet_v2")
    net = aw.interop.load(
        save(tmp_path / "a.pt", reference), "slimmable_networks", "s_mobilenet_v2", image_size=64
    )
    net.save(tmp_path / "net.safetensors")
    again = aw.load(tmp_path / "net.safetensors", aw.models.MobileNetV2())
    compare(again, reference, range(4))
    again.float().train()
    again.at(0.35)(X.float()).sum().backward()
    assert again.model.features[0][0].weight.grad[:16].abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.features.3.body.3.weight"), r"1 missing \(features\.3\.body\.3\.weight\)"),
        (lambda s: s.update({"module.extra": torch.ones(1)}), r"1 unexpected \(extra\)"),
        (
            lambda s: s.update({"module.classifier.0.weight": torch.ones(10, 1024)}),
            r"1 of another shape \(classifier\.0\.weight is \[10, 1024\] in the file, \[1000, 1024\] here\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state = Reference("s_mobilenet_v1").checkpoint()
    change(state)
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        aw.interop.load(tmp_path / "a.pt", "slimmable_networks", "s_mobilenet_v1", image_size=64)


def test_a_checkpoint_of_another_model(tmp_path):
    path = save(tmp_path / "a.pt", Reference("s_resnet50"))
    with pytest.raises(
        CheckpointError, match=r"does not fit s_mobilenet_v1: .* unexpected .* of another shape"
    ):
        aw.interop.load(path, "slimmable_networks", "s_mobilenet_v1", image_size=64)
    with pytest.raises(CheckpointError, match="holds batch norms of 4 widths, expected 31"):
        aw.interop.load(path, "slimmable_networks", "us_mobilenet_v1", image_size=64)


def test_prefixes_of_a_compiled_network_in_a_wrapper(tmp_path):
    reference = Reference("s_mobilenet_v1")
    torch.save({f"_orig_mod.{k}": v for k, v in reference.checkpoint().items()}, tmp_path / "a.pt")
    compare(
        aw.interop.load(tmp_path / "a.pt", "slimmable_networks", "s_mobilenet_v1", image_size=64),
        reference,
        (0,),
    )


class Unsafe:
    def __reduce__(self):
        return (print, ("run",))


def test_files_that_cannot_be_read(tmp_path):
    def refused(path, message):
        with pytest.raises(CheckpointError, match=message):
            aw.interop.load(path, "slimmable_networks", "s_resnet50", image_size=64)

    refused(tmp_path / "none.pt", "no such file")
    (tmp_path / "text.pt").write_text("hello")
    refused(tmp_path / "text.pt", "cannot be read as a checkpoint of tensors")
    torch.save({"model": {"a": torch.ones(1)}, "meters": Unsafe()}, tmp_path / "unsafe.pt")
    refused(tmp_path / "unsafe.pt", "holds pickled objects, which are never loaded")
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", r"holds no state_dict: its keys are 'epoch', 'best'")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "holds a list")
    torch.save({"model": {}}, tmp_path / "empty.pt")
    refused(tmp_path / "empty.pt", "holds nothing, expected the tensors")
    torch.save({1: torch.ones(2)}, tmp_path / "nameless.pt")
    refused(tmp_path / "nameless.pt", "tensors without names, like 1")
    torch.save({"model": {"a": torch.ones(1), "b": 5}}, tmp_path / "mixed.pt")
    refused(tmp_path / "mixed.pt", "'b' is a int; expected tensors only")
    torch.save({"module.fc.weight": torch.ones(1)}, tmp_path / "ordinary.pt")
    refused(tmp_path / "ordinary.pt", "holds no batch norms of several widths .* source='torchvision'")
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize("kept", [0, 5000, 1_000_000])
@pytest.mark.parametrize("new", [True, False])
def test_files_that_were_cut(tmp_path, kept, new):
    path = tmp_path / "a.pt"
    torch.save({"model": Reference("s_mobilenet_v1").checkpoint()}, path, _use_new_zipfile_serialization=new)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint .* it is damaged"):
        aw.interop.load(path, "slimmable_networks", "s_mobilenet_v1", image_size=64)


def test_an_archive_is_to_be_unpacked(tmp_path):
    """Some of the released files are zipped."""
    inner = save(tmp_path / "us_mobilenet_v1_calibrated.pt", Reference("us_mobilenet_v1", (0.25, 1.0)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(inner, inner.name)
    with pytest.raises(CheckpointError, match=r"unpack it and give the file in it \(us_mobilenet_v1_cal"):
        aw.interop.load(tmp_path / "a.zip", "slimmable_networks", "us_mobilenet_v1", image_size=64)


@pytest.mark.parametrize("widths", [0.5, "0.25"])
def test_widths_are_a_list(tmp_path, widths):
    with pytest.raises(WidthError, match="expected a list in the order of the file"):
        aw.interop.load(tmp_path / "a.pt", "slimmable_networks", "us_mobilenet_v1", widths)


@pytest.mark.parametrize(
    ("model", "widths", "message"),
    [
        ("s_resnet", None, "unknown model of slimmable_networks 's_resnet'; did you mean 's_resnet50'"),
        ("us_mobilenet_v1", [0.5, 1.5], r"expected ratios above 0 and up to 1, got \[1\.5\]"),
        ("s_shufflenet", [], "up to 8, got none"),
        ("autoslim_mobilenet_v1", [[8, 16]], "list 1 should be 14 numbers of channels"),
        ("autoslim_mobilenet_v1", [], "no channel lists"),
    ],
)
def test_widths_that_cannot_be(model, widths, message):
    with pytest.raises(WidthError, match=message):
        new(model, widths, image_size=64)


def test_the_table_of_models_is_that_of_the_oracle():
    assert set(MODELS) == set(WIDTHS) | set(LISTS)
