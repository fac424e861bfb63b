"""Imported checkpoints compute what the public code of Network Slimming computes: full, pruned, masked, fine-tuned."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import anywidth as aw
from anywidth.channel_select import selects
from anywidth.errors import CheckpointError
from anywidth.interop.network_slimming import convert
from deterministic_fill import filled
from slimming_counts import macs, params
from slimming_reference import Densenet, Resnet, Vgg, VggA, compact, counts, mask_, norms, threshold
from slimming_tables import PRUNED, SIZES

X = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
LARGE = {"vgg19": Vgg, "resnet164": Resnet, "densenet40": Densenet}
SMALL = {"vgg11": (Vgg, 11), "resnet20": (Resnet, 20), "densenet22": (Densenet, 22)}


def fill_(net):
    net.load_state_dict(filled(net.state_dict()))
    return net


def relative(got, expected) -> float:
    return float((got - expected).norm() / expected.norm())


@torch.no_grad()
def outputs(net, x=X):
    return net.double().eval()(x)


def loaded(state, model, cfg=None):
    net, own = convert(state, model, cfg)
    net.load_state_dict(own)
    return net


def pruned(model: str, share: float = 0.5, **options):
    """The masked and the compact network, and the list of channels."""
    build, depth = SMALL[model]
    net = fill_(build(depth, **options))
    masks = threshold(net, share)[2]
    mask_(net, masks)
    return net, compact(net, masks, depth=depth, **options), counts(net, masks)


# --- the oracle is what the description says


@pytest.mark.parametrize(
    ("model", "entries", "masked", "counted"),
    [
        ("vgg19", 98, None, 20_035_018),
        ("resnet164", 1038, 983, 1_711_338),
        ("densenet40", 275, 236, 1_068_658),
    ],
)
def test_the_reference_has_the_published_layout(model, entries, masked, counted):
    net = LARGE[model]()
    assert len(net.state_dict()) == entries
    assert params(net) == counted  # with its selection vectors
    if masked is not None:
        assert len(LARGE[model](select=False).state_dict()) == masked


@pytest.mark.parametrize(("model", "share"), PRUNED)
def test_published_pruned_networks(model, share):
    """From the deterministic weights: threshold, channels and sizes as published; three forms of one function."""
    position, value, size, multiply_adds, cfg = PRUNED[model, share]
    net = fill_(LARGE[model]())
    full = outputs(loaded(net.state_dict(), model))
    assert relative(full, outputs(net)) < 1e-10
    found, at, masks = threshold(net.float(), share)
    assert (found, at) == (position, pytest.approx(value, abs=1e-7))
    assert counts(net, masks) == cfg
    mask_(net, masks)
    small = compact(net, masks)
    assert sum(p.numel() for n, p in small.named_parameters() if not n.endswith("indexes")) == size

    ours, masked = loaded(small.state_dict(), model, cfg), loaded(net.state_dict(), model, cfg)
    assert params(ours) == size
    assert macs(ours) == multiply_adds
    assert params(masked) == SIZES[model][2][0]
    expected = outputs(net)
    for other in (small, ours, masked):
        assert relative(outputs(other), expected) < 1e-10
    assert relative(full, expected) > 0.1


def test_the_comparison_sees_other_channels():
    _, small, cfg = pruned("resnet20")
    ours = loaded(small.state_dict(), "resnet20", cfg)
    assert relative(outputs(ours), outputs(small)) < 1e-10
    norm = next(m for m in ours.modules() if selects(m))
    norm.index.copy_((norm.index + 1) % norm.num_features)
    assert relative(outputs(ours), outputs(small)) > 1e-3


# --- files


def trained(net):
    """A step of SGD with momentum, as fine-tuning makes; the state of the optimiser too."""
    net = net.float().train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    net(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def save(path: Path, kind: str, model: str):
    """A file as the public programs write it, and the network that it holds."""
    masked, small, cfg = pruned(model)
    build, depth = SMALL[model]
    base = fill_(build(depth))
    if kind == "base":
        torch.save(
            {"epoch": 160, "state_dict": base.state_dict(), "best_prec1": 0.9377, "optimizer": {}}, path
        )
        return base
    if kind == "pruned":
        torch.save({"cfg": cfg, "state_dict": small.state_dict()}, path)
        return small
    if kind == "masked":
        state = {k: t for k, t in masked.state_dict().items() if not k.endswith("indexes")}
        torch.save({"cfg": cfg, "state_dict": state}, path)
        return masked
    optimizer, best = trained(small), torch.tensor(0.93)
    torch.save(
        {"epoch": 1, "state_dict": small.state_dict(), "best_prec1": best, "optimizer": optimizer}, path
    )
    return small


@pytest.mark.parametrize("kind", ["base", "pruned", "masked", "fine-tuned"])
@pytest.mark.parametrize("model", SMALL)
def test_a_file_becomes_an_elastic_network(model, kind, tmp_path):
    path = tmp_path / "model_best.pth.tar"
    expected = outputs(save(path, kind, model))
    net = aw.interop.load(path, source="network-slimming", model=model)
    assert net.macs(1.0) == macs(net.model)
    assert net.params(1.0) == params(net.model)
    with torch.no_grad():
        net = net.double().eval()
        for got in (net(X), net.at(1.0)(X), net.extract(1.0)(X)):
            assert relative(got, expected) < 1e-10
    chosen = any(selects(m) for m in net.model.modules())
    assert chosen == (kind in ("pruned", "fine-tuned") and model != "vgg11")


@pytest.mark.parametrize("kind", ["legacy", "parallel", "bare", "safetensors", "old norms", "half precision"])
@pytest.mark.parametrize("model", ["vgg11", "resnet20"])
def test_kinds_of_files(model, kind, tmp_path):
    _, small, cfg = pruned(model)
    expected, state = outputs(small), small.float().state_dict()
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth.tar")
    if kind == "parallel":
        state = {f"module.{k}": t for k, t in state.items()}
    if kind == "old norms":
        state = {k: t for k, t in state.items() if not k.endswith("num_batches_tracked")}
    if kind == "half precision":
        state = {k: t.half() if t.is_floating_point() else t for k, t in state.items()}
        small.load_state_dict(state)
        expected = outputs(small)
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "bare":
        torch.save(state, path)
    else:
        torch.save({"cfg": cfg, "state_dict": state}, path, _use_new_zipfile_serialization=kind != "legacy")
    net = aw.interop.load(path, "network-slimming", model).model
    assert relative(outputs(net), expected) < 1e-10
    tracked = {int(t) for k, t in net.state_dict().items() if k.endswith("num_batches_tracked")}
    assert tracked == ({1} if kind == "old norms" else {0})


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("vgg11", {"classes": 100}),
        ("resnet20", {"classes": 100}),
        ("densenet22", {"classes": 7, "stem": 16}),
        ("densenet22", {"stem": 6, "growth": 5}),
    ],
)
def test_sizes_that_the_tensors_tell(model, options):
    for net in pruned(model, 0.3, **options)[:2]:
        ours = loaded(net.state_dict(), model)
        assert relative(outputs(ours), outputs(net)) < 1e-10


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(("pixels", "side"), [(64, 2), (96, 3)])
def test_vgg_a(tmp_path, wrapped, pixels, side):
    """Of fewer channels than the published one, which has half a gigabyte; its file wraps the convolutions alone."""
    convs, hidden = [5, 6, 7, 8, 9, 8, 7, 6], (11, 12)
    net = fill_(VggA(13, pixels, convs, hidden))
    state = net.state_dict()
    assert state["classifier.0.weight"].shape == (11, 6 * side**2)
    if wrapped:
        state = {k.replace("features.", "features.module."): t for k, t in state.items()}
    cfg = [5, "M", 6, "M", 7, 8, "M", 9, 8, "M", 7, 6, "M", 11, 12]
    torch.save({"cfg": cfg, "arch": "vgg11_bn", "state_dict": state}, tmp_path / "a.pth.tar")
    x = torch.randn(2, 3, pixels, pixels, dtype=torch.float64)
    ours = aw.interop.load(tmp_path / "a.pth.tar", "network-slimming", "vgg_a")
    assert relative(outputs(ours, x), outputs(net, x)) < 1e-10
    assert ours.macs(1.0) == macs(ours.model, pixels)


def test_a_layer_that_pruning_emptied_is_refused_and_its_masked_file_is_not():
    net = fill_(Resnet(20))
    masks = threshold(net, 0.3)[2]
    masks["layer2.1.bn1"][:] = False
    mask_(net, masks)
    cfg = counts(net, masks)
    assert cfg[9] == 0
    small = pruned("resnet20")[1]
    small.layer2[1].select.indexes.data.zero_()
    with pytest.raises(CheckpointError, match=r"'layer2\.1\.select\.indexes' selects none of 128 channels"):
        convert(small.state_dict(), "resnet20", cfg)
    assert relative(outputs(loaded(net.state_dict(), "resnet20", cfg)), outputs(net)) < 1e-10


def test_any_value_that_is_not_zero_selects():
    _, small, _ = pruned("densenet22")
    state = {k: t * -0.25 if k.endswith("indexes") else t for k, t in small.state_dict().items()}
    assert relative(outputs(loaded(state, "densenet22")), outputs(small)) < 1e-10


def test_convert_changes_nothing():
    _, small, _ = pruned("resnet20")
    state = small.state_dict()
    before = {k: t.clone() for k, t in state.items()}
    loaded(state, "resnet20")
    assert state.keys() == before.keys()
    assert all(torch.equal(state[k], t) for k, t in before.items())


# --- what cannot be


def without(*names):
    return lambda state: [state.pop(n) for n in names]


def put(name, *shape):
    return lambda state: state.update({name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("resnet20", without("layer1.0.conv2.weight"), r"does not fit resnet20: .*1 missing \(layer1\.0\.conv2\.weight\)"),
        ("resnet20", without("layer1.1.select.indexes"), r"1 missing \(layer1\.1\.select\.indexes\)"),
        ("resnet20", without("fc.weight"), r"'fc\.weight' of a convolution or linear layer is missing"),
        ("resnet20", put("fc.weight"), r"'fc\.weight' .* is missing; it is \[\]"),
        ("resnet20", put("layer1.0.bn4.weight", 3), r"1 unexpected \(layer1\.0\.bn4\.weight\)"),
        ("resnet20", put("layer1.1.select.indexes", 63), r"layer1\.1\.select\.indexes is \[63\] in the file, \[64\] here"),
        ("resnet20", put("layer1.1.bn1.bias", 63), r"layer1\.1\.bn1\.bias is \[63\] in the file, \[64\] here"),
        ("resnet20", put("layer1.1.select.indexes", 64), r"layer1\.1\.conv1\.weight is \[\d+, \d+, 1, 1\] in the file, \[\d+, 64, 1, 1\] here"),
        ("resnet20", put("layer1.0.bn2.weight", 2, 2), r"layer1\.0\.bn2\.weight is \[2, 2\] in the file"),
        ("resnet20", put("conv1.weight", 15, 3, 3, 3), r"conv1\.weight is \[15, 3, 3, 3\] in the file, \[16, 3, 3, 3\] here"),
        ("densenet22", put("conv1.weight", 25, 3, 3, 3), r"bn1\.weight is \[24\] in the file, \[25\] here"),
        ("densenet22", put("dense1.0.conv1.weight", 0, 3, 3, 3), r"growth 0 and stem 24: expected at least 1"),
        ("densenet22", put("dense3.1.conv1.weight", 9, 3, 3, 3), r"dense3\.1\.conv1\.weight is \[9, 3, 3, 3\] in the file"),
        ("vgg11", put("feature.5.weight", 0), r"entry 2 of the channels \(features\.4\) is 0"),
        ("vgg11", put("feature.4.weight", 3, 3, 3, 3), r"feature\.4\.weight is \[3, 3, 3, 3\] in the file"),
        ("vgg11", without("feature.0.weight"), r"holds no network of network-slimming: expected 'feature\.0\.weight'"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(model, change, message, tmp_path):
    state = dict(pruned(model)[1].state_dict())
    change(state)
    torch.save({"state_dict": state}, tmp_path / "a.pth.tar")
    with pytest.raises(CheckpointError, match=rf"a\.pth\.tar: .*{message}"):
        aw.interop.load(tmp_path / "a.pth.tar", "network-slimming", model)


@pytest.mark.parametrize(
    ("held", "model", "message"),
    [
        ("vgg11", "vgg13", r"does not fit vgg13: .*missing"),
        ("vgg11", "resnet20", r"has 'feature\.0\.weight', so it is no resnet20 but a vgg of some depth"),
        ("resnet20", "resnet29", r"does not fit resnet29: .*missing \(layer1\.2"),
        ("resnet20", "resnet50", r"resnet50: PreActResNet: depth 50 is not 9 n \+ 2"),
        ("densenet22", "densenet40", r"does not fit densenet40: .*missing \(dense1\.6"),
        ("densenet22", "densenet41", r"depth 41 is not 3 n \+ 4"),
        ("vgg11", "vgg12", r"depth 12 is not one of 11, 13, 16, 19"),
        ("vgg11", "vgg_b", "unknown model of network-slimming 'vgg_b'; did you mean 'vgg_a'"),
        ("vgg11", "mobilenet", "unknown model of network-slimming 'mobilenet'"),
    ],
)
def test_the_wrong_model(held, model, message):
    with pytest.raises(CheckpointError, match=message):
        convert(pruned(held)[1].state_dict(), model)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ([1, 2, 3], r"cfg: expected 19 numbers of channels, got \[1, 2, 3\]"),
        ("wide", "cfg: expected 19 numbers of channels, got 'wide'"),
        ([2] * 18 + [2.0], "cfg: expected 19 numbers"),
        ([2] * 19, r"cfg says 2 channels for 'layer1\.0\.bn1', but the tensors have \d+ \(\d+ of them with a scale"),
    ],
)  # fmt: skip
def test_a_list_that_is_not_that_of_the_tensors(cfg, message):
    with pytest.raises(CheckpointError, match=message):
        convert(pruned("resnet20")[1].state_dict(), "resnet20", cfg)


def test_options(tmp_path):
    path = tmp_path / "a.pth.tar"
    save(path, "pruned", "vgg11")
    net = aw.interop.load(path, "network-slimming", "vgg11", [0.5, 1.0], image_size=64, norm="switchable")
    assert list(net.widths) == [0.5, 1.0]
    assert net.macs(1.0) == macs(net.model, 64)
    with pytest.raises(CheckpointError, match="takes no model_options"):
        aw.interop.load(path, "network-slimming", "vgg11", model_options={"num_classes": 10})
    with pytest.raises(CheckpointError, match="no such file"):
        aw.interop.load(tmp_path / "b.pth.tar", "network-slimming", "vgg11")


def test_all_norms_of_the_oracle_are_pruned():
    assert [len(norms(net())) for net in LARGE.values()] == [16, 163, 39]


def test_the_number_of_classes_is_checked(tmp_path):
    path = tmp_path / "model_best.pth.tar"
    save(path, "base", "vgg11")
    assert aw.interop.load(path, "network-slimming", "vgg11", num_classes=10).macs(1.0) > 0
    with pytest.raises(CheckpointError, match="holds 10 classes, expected num_classes = 100"):
        aw.interop.load(path, "network-slimming", "vgg11", num_classes=100)
