"""Quantisation-aware training at any width: ranges of whole tensors and of channels."""

import copy

import pytest
import torch
from torch import nn

from anywidth import Elastic

pytestmark = [pytest.mark.filterwarnings(f"ignore::{w}Warning") for w in ("Deprecation", "Future", "User")]
quantisation = torch.ao.quantization


def prepared(backend, fused, *, ran):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
    )
    model = quantisation.QuantWrapper(model).train()
    model.qconfig = quantisation.get_default_qat_qconfig(backend)
    if fused:
        quantisation.fuse_modules_qat(model.module, [["0", "1", "2"]], inplace=True)
    quantisation.prepare_qat(model, inplace=True)
    if ran:
        model(torch.randn(4, 3, 6, 6))
    return model


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("backend", "ran"), [("qnnpack", False), ("qnnpack", True), ("x86", True), ("fbgemm", True)]
)
def test_narrow_networks_keep_the_ranges_of_their_channels(backend, ran, fused):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6)
    net = Elastic(prepared(backend, fused, ran=ran), x)
    assert [g.size for g in net.space.groups] == [8, 6]
    assert not net.space.unknown
    net.calibrate([x], widths=[0.5])
    net.eval()
    net(x)  # a fresh one has no ranges before
    small = net.extract(0.5).eval()
    torch.testing.assert_close(small(x), net.at(0.5)(x), rtol=0, atol=0)
    scale, narrow = (m.module[3].weight_fake_quant.scale for m in (net.model, small))
    assert torch.equal(narrow, scale[: len(narrow)])
    assert len(narrow) == (3 if backend != "qnnpack" else 1)


@pytest.mark.parametrize("backend", ["qnnpack", "x86"])
def test_training_a_view_moves_the_ranges_as_training_the_narrow_network_does(backend):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6)
    net = Elastic(prepared(backend, False, ran=True), x)
    net.calibrate([x], widths=[0.5])
    small = copy.deepcopy(net.extract(0.5)).train()
    net.train()
    with torch.no_grad():
        for m in (net.model, small):
            m.module[3].weight.mul_(3)
    torch.testing.assert_close(net.at(0.5)(2 * x), small(2 * x), rtol=0, atol=0)
    observer, narrow = (
        m.module[3].weight_fake_quant.activation_post_process.max_val for m in (net.model, small)
    )
    assert torch.equal(observer[: len(narrow)] if narrow.ndim else observer, narrow)


def test_observers_of_channels_that_have_seen_nothing_keep_their_channels():
    net = Elastic(prepared("x86", False, ran=False), torch.randn(2, 3, 6, 6))
    assert not net.space.groups
    assert any("run the model once in training" in f.reason for f in net.space.frozen)


@pytest.mark.parametrize("learnable", [True, False])
def test_one_scale_per_channel(learnable):
    class FakeQuantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.o = nn.Linear(3, 8), nn.Linear(8, 2)
            self.scale = nn.Parameter(torch.linspace(0.01, 0.1, 8))
            self.register_buffer("zero", torch.zeros(8, dtype=torch.float32 if learnable else torch.int32))

        def forward(self, x):
            h = self.i(x)
            if learnable:
                h = torch._fake_quantize_learnable_per_channel_affine(h, self.scale, self.zero, 1, -128, 127)
            else:
                h = torch.fake_quantize_per_channel_affine(h, self.scale.detach(), self.zero, 1, -128, 127)
            return self.o(h)

    torch.manual_seed(0)
    model, x = FakeQuantised(), torch.randn(4, 3)
    net = Elastic(model, x)
    small = net.extract(0.5)
    assert small.scale.shape == small.zero.shape == (4,)
    hidden = torch.fake_quantize_per_channel_affine(
        model.i(x)[:, :4], model.scale[:4].detach(), torch.zeros(4, dtype=torch.int32), 1, -128, 127
    )
    expected = hidden @ model.o.weight[:, :4].T + model.o.bias
    for narrow in (small, net.at(0.5)):
        torch.testing.assert_close(narrow(x), expected)
