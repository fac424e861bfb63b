"""Norms over channels in masked networks take their statistics over the kept channels."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import transformers
from torch import nn

import anywidth as aw
from anywidth.prune.kept_norms import is_channel_norm


class RootMeanSquare(nn.Module):
    """As language models write it."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class ChannelsFirstNorm(nn.LayerNorm):
    """Over the channels of images, (N, C, H, W)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MyRmsNorm(RootMeanSquare):
    pass


NORMS = {
    "layer norm": (lambda: nn.LayerNorm(16), False),
    "layer norm without a bias": (lambda: nn.LayerNorm(16, bias=False), False),
    "rms norm": (lambda: nn.RMSNorm(16), False),
    "a norm of the user's own": (lambda: MyRmsNorm(16), False),
    "channels first": (lambda: ChannelsFirstNorm(16), True),
    "instance norm": (lambda: nn.InstanceNorm2d(16, affine=True), True),
    "group norm of one group": (lambda: nn.GroupNorm(1, 16), True),
    "group norm of few groups": (lambda: nn.GroupNorm(2, 16), True),
    "group norm of many groups": (lambda: nn.GroupNorm(8, 16), True),
}


def _network(norm: nn.Module, spatial: bool) -> tuple[nn.Module, torch.Tensor]:
    for p in norm.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    if spatial:
        return nn.Sequential(nn.Conv2d(3, 16, 3), norm, nn.ReLU(), nn.Conv2d(16, 3, 1)), torch.randn(
            2, 3, 6, 6
        )
    return nn.Sequential(nn.Linear(4, 16), norm, nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 5, 4)


def _chosen(net: aw.Elastic):
    """Every group loses some units from the middle."""
    return net.space.width({g.name: [i for i in range(g.size) if i % 3 != 1] for g in net.space.groups})


@pytest.mark.parametrize(("make", "spatial"), NORMS.values(), ids=NORMS)
@torch.no_grad()
def test_masked_equals_extracted(make, spatial):
    torch.manual_seed(0)
    model, x = _network(make(), spatial)
    net = aw.Elastic(model.eval().double(), x.double())
    width = _chosen(net)
    masked = aw.prune.masked(net, width)
    fresh = torch.randn_like(x).double()
    torch.testing.assert_close(masked(fresh), net.extract(width)(fresh))
    assert [(n, p.shape) for n, p in masked.named_parameters()] == [
        (n, p.shape) for n, p in model.named_parameters()
    ]


@torch.no_grad()
def test_by_hand():
    torch.manual_seed(0)
    model, x = _network(nn.LayerNorm(16), False)
    net = aw.Elastic(model.eval(), x)
    width = _chosen(net)
    kept = list(width.units(0))
    hidden = nn.functional.layer_norm(
        model[0](x)[..., kept], (len(kept),), model[1].weight[kept], model[1].bias[kept]
    )
    by_hand = hidden.relu() @ model[3].weight[:, kept].T + model[3].bias
    torch.testing.assert_close(aw.prune.masked(net, width)(x), by_hand)


def test_a_masked_network_trains_is_copied_and_saved():
    torch.manual_seed(0)
    model, x = _network(nn.LayerNorm(16), False)
    net = aw.Elastic(model.eval(), x)
    masked = aw.prune.masked(net, _chosen(net))
    copied = copy.deepcopy(masked)
    buffer = io.BytesIO()
    torch.save(masked, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    masked(x).sum().backward()
    assert bool(masked[1].weight.grad.any())
    with torch.no_grad():
        masked[1].weight.mul_(2)  # a copy has parameters of its own
        assert not torch.equal(masked(x), copied(x))
    torch.testing.assert_close(copied(x), loaded(x))


@torch.no_grad()
def test_a_cache_among_the_outputs_is_not_compared():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    ids = torch.randint(50, (1, 6))
    net = aw.Elastic(transformers.GPT2LMHeadModel(config).eval(), ids)
    width = _chosen(net)
    torch.testing.assert_close(
        aw.prune.masked(net, width)(ids).logits, net.extract(width)(ids).logits, rtol=1e-4, atol=1e-5
    )


def test_a_block_that_is_named_after_its_norm_is_none():
    class LayerNormBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.layer_norm = nn.Conv1d(4, 8, 3), nn.LayerNorm(8)

    assert not is_channel_norm(LayerNormBlock())
    assert is_channel_norm(nn.LayerNorm(8))
    assert not is_channel_norm(nn.BatchNorm2d(8))
