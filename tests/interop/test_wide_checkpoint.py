import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

import anywidth as aw
from anywidth.errors import CheckpointError

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def weights(seed: int = 0):
    torch.manual_seed(seed)
    model = torchvision.models.resnet18(weights=None).eval()
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_var, 0.5, 2.0)
            torch.nn.init.normal_(m.running_mean)
            torch.nn.init.uniform_(m.weight, 0.5, 2.0)
    return model


@pytest.mark.parametrize("kind", ["pt", "wrapped", "safetensors"])
@pytest.mark.parametrize("sort", [True, False])
def test_the_widest_network_computes_what_the_checkpoint_computes(tmp_path, kind, sort):
    model = weights()
    state = model.state_dict()
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"state_dict": {f"module.{k}": v for k, v in state.items()}} if kind == "wrapped" else state, path
        )
    net = aw.interop.load(path, "torchvision", "resnet18", [0.5, 1.0], image_size=64, sort=sort).eval()
    torch.testing.assert_close(net(X), model(X), rtol=1e-4, atol=1e-4)
    assert not net.has_statistics(0.5)
    same = torch.equal(net.model.conv1.weight, model.conv1.weight)
    assert same != sort


def test_sorted_channels_have_falling_importance(tmp_path):
    torch.save(weights().state_dict(), tmp_path / "a.pth")
    net = aw.interop.load(tmp_path / "a.pth", "torchvision", "resnet18", image_size=64)
    inner = net.model.layer2[0].conv1.weight.abs().sum((1, 2, 3))  # a group that one layer makes
    assert (inner.diff() <= 0).all()
    made = [net.model.conv1, net.model.layer1[0].conv2, net.model.layer1[1].conv2]
    stream = sum(m.weight.abs().sum((1, 2, 3)) for m in made)  # a residual stream: all that write it
    assert (stream.diff() <= 1e-3).all()
    kept = net.extract(0.5).layer2[0].conv1.weight.abs().sum()
    plain = weights().layer2[0].conv1.weight[:64, :32].abs().sum()
    assert kept > plain


def test_a_timm_model(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    net = aw.interop.load(
        tmp_path / "a.pth", "timm", "convnext_atto", image_size=64, model_options={"num_classes": 7}
    )
    torch.testing.assert_close(net.eval()(X), model(X), rtol=1e-4, atol=1e-4)


def test_what_cannot_be(tmp_path):
    torch.save(weights().state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"does not fit ResNet: .*missing"):
        aw.interop.load(tmp_path / "a.pth", "torchvision", "resnet50", image_size=64)
    with pytest.raises(CheckpointError, match="unknown torchvision model 'resnet19'"):
        aw.interop.load(tmp_path / "a.pth", "torchvision", "resnet19")
    with pytest.raises(CheckpointError, match="unknown timm model"):
        aw.interop.load(tmp_path / "a.pth", "timm", "convnext_tini")
    with pytest.raises(CheckpointError, match="unknown source of checkpoints 'keras'"):
        aw.interop.load(tmp_path / "a.pth", "keras", "resnet18")
    with pytest.raises(CheckpointError, match="takes no norm"):
        aw.interop.load(tmp_path / "a.pth", "slimmable_networks", "s_resnet50", norm="shared")


def test_an_unfit_checkpoint_changes_nothing(tmp_path):
    net = aw.Elastic(weights(), X[:1])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = weights(1).state_dict()
    state.pop("fc.bias")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="1 missing"):
        aw.interop.load_wide_(net, tmp_path / "a.pth")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("sort", [True, False])
def test_switchable_norms_of_narrow_widths_begin_from_the_checkpoint(tmp_path, sort):
    model = weights()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    net = aw.interop.load(
        tmp_path / "a.pth", "torchvision", "resnet18", [0.5, 1.0], image_size=64, norm="switchable", sort=sort
    ).eval()
    torch.testing.assert_close(net(X), model(X), rtol=1e-4, atol=1e-4)
    assert not net.has_statistics(0.5)
    narrow = dict(net.train().at(0.5).named_parameters())
    for name, wide in net.model.named_parameters():
        here = tuple(slice(0, n) for n in narrow[name].shape)
        torch.testing.assert_close(narrow[name], wide[here], rtol=0, atol=0, msg=name)
