"""Numbers that a model computes from its sizes: a narrow network has those of its own sizes."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import WidthError
from anywidth.space.channel_space import ChannelSpace

SCORES = {
    "attribute times scores": lambda s, q, k: (q @ k.transpose(-1, -2)) * s.scale,
    "attribute times query": lambda s, q, k: (q * s.scale) @ k.transpose(-1, -2),
    "in place": lambda s, q, k: (q @ k.transpose(-1, -2)).mul_(s.scale),
    "division by a root": lambda s, q, k: (q @ k.transpose(-1, -2)) / s.root,
    "root at every call": lambda s, q, k: (q @ k.transpose(-1, -2)) / math.sqrt(s.head_dim),
    "power at every call": lambda s, q, k: (q @ k.transpose(-1, -2)) * s.head_dim**-0.5,
    "fused, with the attribute": lambda s, q, k: F.scaled_dot_product_attention(
        q, k, torch.eye(k.shape[-2], dtype=q.dtype).expand(*k.shape[:-1], -1), scale=s.scale
    ).log(),
    "root of a shape": lambda s, q, k: (q @ k.transpose(-1, -2)) / math.sqrt(k.size(-1)),
}


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int, scores) -> None:
        super().__init__()
        self.head_dim, self.scores = channels // heads, scores
        self.scale, self.root = self.head_dim**-0.5, math.sqrt(self.head_dim)
        self.first = nn.Linear(4, channels)
        self.q, self.k, self.v = nn.Linear(channels, channels), nn.Linear(channels, channels), nn.Linear(channels, channels)  # fmt: skip
        self.last = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = [f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for f in (self.q, self.k, self.v)]
        return self.last((self.scores(self, q, k).softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("heads", [1, 2, 4])
@torch.no_grad()
def test_scale_of_attention(scores, heads):
    torch.manual_seed(0)
    model = Attention(16, heads, scores).eval()
    x = torch.randn(2, 5, 4)
    net = aw.Elastic(model, x)
    narrow_heads = max(1, heads // 2)  # one head gets narrower, two or more get fewer
    compact = Attention(8, narrow_heads, scores).eval()
    sliced = {
        n: t[tuple(slice(s) for s in compact.state_dict()[n].shape)] for n, t in model.state_dict().items()
    }
    compact.load_state_dict(sliced)
    torch.testing.assert_close(net.at(0.5)(x), compact(x))
    torch.testing.assert_close(net.extract(0.5)(x), compact(x))
    torch.testing.assert_close(net.extract(1.0)(x), model(x))


class ScaledEmbedding(nn.Embedding):
    def __init__(self, count: int, channels: int, how: str) -> None:
        super().__init__(count, channels)
        self.how, self.embed_scale, self.channels = how, channels**0.5, channels
        self.register_buffer("normalizer", torch.tensor(channels**0.5), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        scale = {"buffer": self.normalizer.to(self.weight.dtype), "attribute": self.embed_scale, "call": self.channels**0.5}  # fmt: skip
        return super().forward(ids) * scale[self.how]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("how", ["buffer", "attribute", "call"])
@torch.no_grad()
def test_scale_of_an_embedding(how, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(ScaledEmbedding(10, 16, how), nn.Linear(16, 3)).to(dtype)
    ids = torch.tensor([[1, 4, 2]])
    net = aw.Elastic(model, ids)
    expected = F.linear(model[0].weight[ids, :8] * 8**0.5, model[1].weight[:, :8], model[1].bias)
    for small in (net.at(0.5), net.extract(0.5), copy.deepcopy(net.at(0.5))):
        torch.testing.assert_close(small(ids), expected)
    if how == "call":  # a network of full size computes the number of its own size
        with pytest.raises(WidthError, match="computes something else"):
            aw.prune.masked(net, 0.5)
    else:
        torch.testing.assert_close(aw.prune.masked(net, 0.5)(ids), expected)
    torch.testing.assert_close(net.at(1.0)(ids), model(ids))


def test_they_are_saved_with_the_space(tmp_path):
    model = nn.Sequential(ScaledEmbedding(10, 16, "buffer"), nn.Linear(16, 3))
    ids = torch.tensor([[1, 4, 2]])
    net = aw.Elastic(model, ids)
    assert ChannelSpace.from_json(net.space.to_json()) == net.space
    net.save(tmp_path / "net.safetensors")
    loaded = aw.load(
        tmp_path / "net.safetensors", nn.Sequential(ScaledEmbedding(10, 16, "buffer"), nn.Linear(16, 3))
    )
    torch.testing.assert_close(loaded.at(0.5)(ids), net.at(0.5)(ids))


class Residual(nn.Module):
    """Numbers that are no root of a size, and one that only looks like it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)
        self.alpha, self.p, self.weight_of_h = 0.2, 0.25, 0.25

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h + self.alpha * h.relu() + self.p * h.tanh() + self.weight_of_h * h.sin())


def test_other_numbers_stay():
    net = aw.Elastic(Residual(), torch.randn(2, 4))
    assert (net.at(0.5).alpha, net.at(0.5).p, net.space.numbers) == (0.2, 0.25, ())


class Halved(nn.Module):
    """A factor that happens to be one over the root of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(3, 4), nn.Linear(4, 2), 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale * self.first(x))


def test_everyday_factors_stay():
    assert aw.Elastic(Halved(), torch.randn(2, 3)).at(0.5).scale == 0.5


class Adapted(nn.Module):
    """Factors that are roots of sizes by chance: of a low-rank update, of a residual branch, of logits, of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.up, self.last = (
            nn.Linear(4, 64),
            nn.Linear(64, 4),
            nn.Linear(4, 64),
            nn.Linear(64, 3),
        )
        self.scaling, self.res_scale, self.logit_scale = 8.0, 0.125, 0.125
        self.register_buffer("norm_slope", torch.tensor(0.125))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.up(self.down(h)) * self.scaling
        h = h + self.res_scale * h.relu() + h.tanh() * self.norm_slope
        return self.last(h) * self.logit_scale


def test_factors_that_are_roots_by_chance_stay():
    net = aw.Elastic(Adapted(), torch.randn(2, 4))
    view = net.at(0.5)
    assert net.space.numbers == ()
    assert (view.scaling, view.res_scale, view.logit_scale, float(view.norm_slope)) == (
        8.0,
        0.125,
        0.125,
        0.125,
    )


@dataclass
class Factor:
    embed_scale: float = 4.0


class EmbeddingOfConfig(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config, self.table, self.last = Factor(), nn.Embedding(10, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.table(ids) * self.config.embed_scale)


@torch.no_grad()
def test_a_factor_in_a_config():
    model, ids = EmbeddingOfConfig(), torch.tensor([[1, 4]])
    net = aw.Elastic(model, ids)
    expected = F.linear(model.table.weight[ids, :8] * 8**0.5, model.last.weight[:, :8], model.last.bias)
    for small in (net.at(0.5), net.extract(0.5), aw.prune.masked(net, 0.5)):
        torch.testing.assert_close(small(ids), expected)
    assert model.config.embed_scale == 4.0


@dataclass
class Settings:
    channels: int = 16
    heads: int = 4
    layers: int = 2


class FromSettings(nn.Module):
    """Reads its sizes where it was given them."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.first, self.qkv, self.last = nn.Linear(4, config.channels), nn.Linear(config.channels, 3 * config.channels), nn.Linear(config.channels, 3)  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        h = self.first(x)
        q, k, v = self.qkv(h).view(b, n, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
        return self.last(h * self.config.channels**-0.5) + self.last(y)


@torch.no_grad()
def test_sizes_in_a_config():
    torch.manual_seed(0)
    model, x = FromSettings(Settings()), torch.randn(2, 5, 4)
    net = aw.Elastic(model, x)
    view = net.at(0.5)
    assert (view.config.heads, view.config.channels, view.config.layers) == (2, 8, 2)
    assert (model.config.heads, type(model.config.heads)) == (4, int)
    compact = FromSettings(Settings(8, 2))
    state = model.state_dict()
    qkv = [i for part in range(3) for i in range(16 * part, 16 * part + 8)]
    compact.load_state_dict({"first.weight": state["first.weight"][:8], "first.bias": state["first.bias"][:8], "qkv.weight": state["qkv.weight"][qkv, :8], "qkv.bias": state["qkv.bias"][qkv], "last.weight": state["last.weight"][:, :8], "last.bias": state["last.bias"]})  # fmt: skip
    small = net.extract(0.5)
    torch.testing.assert_close(view(x), compact(x))
    torch.testing.assert_close(small(x), compact(x))
    assert type(small.config) is Settings
    assert small.config == Settings(8, 2)
    buffer = io.BytesIO()
    torch.save(small, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).config == Settings(8, 2)
    model.config.layers = 3  # what is changed later is seen, too
    assert view.config.layers == 3


@torch.no_grad()
def test_normaliser_of_gemma():
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32}  # fmt: skip
    wide = transformers.GemmaForCausalLM(
        transformers.GemmaConfig(hidden_size=32, intermediate_size=48, **sizes)
    ).eval()
    ids = torch.randint(50, (1, 6))
    net = aw.Elastic(wide, ids)
    width = net.space.width({g.name: g.size * g.unit // 2 for g in net.space.groups})
    small = net.extract(width)
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    compact = transformers.GemmaForCausalLM(
        transformers.GemmaConfig(hidden_size=16, intermediate_size=24, **sizes)
    )
    compact.eval().load_state_dict(small.state_dict())
    torch.testing.assert_close(small(ids).logits, compact(ids).logits)
    torch.testing.assert_close(net.at(width)(ids).logits, compact(ids).logits)


def l2(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def squares(x: Tensor) -> Tensor:
    return x.pow(2).sum(-1, keepdim=True)


BY_HAND = {
    "unit vectors times a root": lambda s, x: F.normalize(x, dim=-1) * s.root * s.gain,
    "after the gain": lambda s, x: F.normalize(x, dim=-1) * (s.gain + 1) * s.root,
    "root at every call": lambda s, x: F.normalize(x, dim=-1) * math.sqrt(s.size) * s.gain,
    "norm over a root": lambda s, x: x / (l2(x) / math.sqrt(s.size) + 1e-6) * s.gain,
    "norm times an inverse root": lambda s, x: s.gain * x / (l2(x) * s.inverse_root).clamp(min=1e-6),
    "root of a sum": lambda s, x: x / (squares(x).sqrt() * s.inverse_root) * s.gain,
    "inverse root of a sum": lambda s, x: x * torch.rsqrt(squares(x) + 1e-6) * s.root * s.gain,
    "sum over the size": lambda s, x: x * torch.rsqrt(squares(x) / s.size + 1e-6) * s.gain,
    "sum times one over the size": lambda s, x: x * torch.rsqrt(squares(x) * s.inverse + 1e-6) * s.gain,
    "inverse at every call": lambda s, x: x * torch.rsqrt(squares(x) * (1 / s.size) + 1e-6) * s.gain,
    "mean and variance": lambda s, x: (x - x.sum(-1, keepdim=True) / s.size) * s.gain,
    "along the channels of an image": lambda s, x: (
        F.normalize(x[..., None, None], dim=1) * s.gain[:, None, None] * s.root
    ).flatten(1),
}


class NormByHand(nn.Module):
    """RMSNorm as many transformers spell it out (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, norm) -> None:
        super().__init__()
        self.size, self.norm, self.gain = size, norm, nn.Parameter(torch.randn(size))
        self.root, self.inverse_root, self.inverse = size**0.5, size**-0.5, 1 / size
        self.first, self.last = nn.Linear(5, size), nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self, self.first(x)))


@pytest.mark.parametrize("norm", BY_HAND.values(), ids=BY_HAND)
@torch.no_grad()
def test_norms_by_hand(norm):
    torch.manual_seed(0)
    model, compact, x = (
        NormByHand(16, norm).double(),
        NormByHand(8, norm).double(),
        torch.randn(4, 5).double(),
    )
    net = aw.Elastic(model, x)
    small = net.extract(0.5)
    compact.load_state_dict(small.state_dict())
    torch.testing.assert_close(small(x), compact(x))
    torch.testing.assert_close(net.at(0.5)(x), compact(x))
    torch.testing.assert_close(net.at(1.0)(x), model(x))


@pytest.mark.parametrize(
    "norm",
    [
        lambda s, x: x.norm(dim=-1, keepdim=True) * x * s.root,
        lambda s, x: x.norm(1, dim=-1, keepdim=True) * x * s.inverse_root,
        lambda s, x: x / x.norm() * s.root,
        lambda s, x: x.sum(0, keepdim=True) * s.inverse * x,
        lambda s, x: F.normalize(x, dim=-1) * 7.0,
    ],
)
def test_factors_beside_other_norms_stay(norm):
    net = aw.Elastic(NormByHand(16, norm), torch.randn(4, 5))
    assert net.space.numbers == ()
