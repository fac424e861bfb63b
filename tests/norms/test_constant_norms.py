"""Constant norms: per width, without gradients, and as torchvision's frozen norms in copies."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import anywidth as aw
from anywidth.errors import StatisticsError, WidthError
from anywidth.norms.constant_norms import as_constants_, copy_state_

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(norm="switchable", widths=(0.5, 1.0)):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return aw.Elastic(model, X[:1], norm=norm, widths=widths)


@pytest.mark.parametrize("norm", ["switchable", "shared"])
def test_constants_change_neither_in_training_nor_by_gradients(norm):
    made = net(norm)
    made.train()
    for w in (0.5, 1.0):
        made.at(w)(X)  # collects statistics
    made.norms.freeze_()
    before = {k: v.clone() for k, v in made.state_dict().items()}
    expected = {w: made.eval().at(w)(X) for w in (0.5, 1.0)}
    made.train()
    for w in (0.5, 1.0):
        y = made.at(w)(X)
        torch.testing.assert_close(y, expected[w])
        y.sum().backward()
    made(X)  # the wide network itself
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    assert made.model[1].weight.grad is None
    assert all(p.grad is None for p in made.norms.parameters())
    assert made.model[0].weight.grad is not None


def test_widths_without_statistics_get_slices():
    made = net("shared")
    with torch.no_grad():
        made.model[1].running_mean.uniform_(-1, 1)
    with pytest.raises(StatisticsError):
        made.eval().at(0.5)(X)
    made.norms.freeze_()
    assert torch.equal(
        made.norms.overrides(made.widths[0.5])["1.running_mean"], made.model[1].running_mean[:4]
    )
    made.at(0.5)(X)
    with pytest.raises(StatisticsError, match="has no batch-norm statistics"):
        made.at(0.25)(X)  # it is not listed
    made.list_width_("thin", 0.25)
    assert torch.equal(
        made.norms.overrides(made.widths["thin"])["1.running_mean"], made.model[1].running_mean[:2]
    )
    made.at("thin")(X)


def test_constants_are_measured_when_asked_for():
    made = net("switchable")
    made.norms.freeze_()
    made.calibrate([X], widths=[0.5], batches=1)
    found = made.norms.overrides(made.widths[0.5])["1.running_mean"]
    conv = made.extract(0.5)[0]
    torch.testing.assert_close(found, conv(X).mean((0, 2, 3)))
    assert made.norms.constant


def test_state_of_one_width_for_another():
    made = net("switchable", widths=(0.25, 0.5, 1.0))
    with torch.no_grad():
        made.norms.overrides(made.widths[0.5])["1.running_mean"].fill_(3)
    width = made.space.width({"0": 4})
    assert width == made.widths[0.5]
    with pytest.raises(WidthError, match=r"differ in '1.running_mean': 2 channels in one, 4 in the other"):
        copy_state_(made.norms, made.widths[0.25], made.widths[0.5])
    assert (made.norms.overrides(made.widths[0.5])["1.running_mean"] == 3).all()


def test_copies_of_constants_are_frozen_norms():
    made = net("switchable")
    for w in (0.5, 1.0):
        made.train().at(w)(X)
    assert isinstance(made.extract(0.5)[1], nn.BatchNorm2d)
    made.norms.freeze_()
    copy = made.extract(0.5)
    assert isinstance(copy[1], FrozenBatchNorm2d)
    torch.testing.assert_close(copy.train()(X), made.eval().at(0.5)(X))


def test_norms_without_affine_pair():
    norm = nn.BatchNorm2d(3, affine=False).eval()
    norm.running_mean.uniform_(-1, 1)
    made = as_constants_(nn.Sequential(norm))
    torch.testing.assert_close(made(X), norm(X))
    assert isinstance(as_constants_(nn.BatchNorm2d(3)), FrozenBatchNorm2d)


def test_constants_are_saved(tmp_path):
    made = net("switchable")
    for w in (0.5, 1.0):
        made.train().at(w)(X)
    made.norms.freeze_()
    made.save(tmp_path / "net.safetensors")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    back = aw.load(tmp_path / "net.safetensors", model)
    assert back.norms.constant
    torch.testing.assert_close(back.train().at(0.5)(X), made.train().at(0.5)(X))
