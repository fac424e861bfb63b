"""Every form of attention: heads go whole, and the narrow view is the transformer built narrow by hand."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention as TimmAttention
from timm.layers import GluMlp, SwiGLU
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized

TOKENS = (2, 5, 6)


def elastic(model: nn.Module, *shape: int) -> Elastic:
    return Elastic(randomized(model), rand(*(shape or TOKENS)))


def thirds(size: int, kept: int) -> list[int]:
    """Positions of the first `kept` of q, of k and of v in a packed qkv."""
    return [p * size + i for p in range(3) for i in range(kept)]


class Torch(nn.Module):
    def __init__(self, heads: int, dim: int, *, batch_first: bool = True, mask: bool = False):
        super().__init__()
        self.stem = nn.Linear(6, heads * dim)
        self.attend = nn.MultiheadAttention(heads * dim, heads, batch_first=batch_first)
        self.head = nn.Linear(heads * dim, 3)
        self.register_buffer("mask", torch.ones(5, 5).triu(1).bool() if mask else None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(y + self.attend(y, y, y, attn_mask=self.mask, need_weights=False)[0])


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torch_multihead_attention_in_a_residual_stream(batch_first, mask):
    shape = (2, 5, 6) if batch_first else (5, 2, 6)
    net = elastic(Torch(4, 3, batch_first=batch_first, mask=mask), *shape)
    assert groups(net) == {"stem": (4, 3)}
    rows = thirds(12, 6)
    where = {"attend.in_proj_weight": {0: rows}, "attend.in_proj_bias": {0: rows}}
    compact = Torch(2, 3, batch_first=batch_first, mask=mask)
    assert_narrow(net, {"stem": 6}, compact, rand(*shape), where)
    view = net.at(net.space.width({"stem": 6}))
    assert (view.attend.num_heads, view.attend.embed_dim) == (2, 6)
    assert (net.model.attend.num_heads, net.model.attend.embed_dim) == (4, 12)


class TorchCross(nn.Module):
    """Keys and values of other sizes: separate projections."""

    def __init__(self, heads: int, dim: int, inner: int):
        super().__init__()
        e = heads * dim
        self.stem, self.keys = nn.Linear(6, e), nn.Linear(4, inner)
        self.attend = nn.MultiheadAttention(e, heads, kdim=inner, vdim=4, batch_first=True)
        self.head = nn.Linear(e, 3)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.head(self.attend(self.stem(x), self.keys(z), z, need_weights=False)[0])


def test_torch_cross_attention_with_other_key_sizes():
    example = rand(2, 5, 6), rand(2, 7, 4, seed=2)
    net = Elastic(randomized(TorchCross(4, 3, 8)), example)
    assert groups(net) == {"stem": (4, 3), "keys": (8, 1), "attend.out_proj": (12, 1)}
    # The stem has no order of its own: torch ties its size to the heads', and the solver picks which channel goes with which.
    units = [
        r.first + i for r in net.space.axes["stem.bias"][0] for i in range(r.count) for _ in range(r.each)
    ]
    stem = [position for position, unit in enumerate(units) if unit < 2]
    where = {
        "attend.in_proj_bias": {0: thirds(12, 6)},
        "stem.weight": {0: stem},
        "stem.bias": {0: stem},
        "attend.q_proj_weight": {1: stem},
    }
    assert_narrow(net, {"stem": 6, "keys": 5, "attend.out_proj": 6}, TorchCross(2, 3, 5), example, where)


class Encoder(nn.Module):
    def __init__(self, heads: int, dim: int, hidden: int):
        super().__init__()
        e = heads * dim
        self.stem = nn.Linear(6, e)
        self.layer = nn.TransformerEncoderLayer(
            e, heads, hidden, dropout=0.0, batch_first=True, activation="gelu"
        )
        self.head = nn.Linear(e, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x)))


def test_torch_transformer_encoder_layer():
    net = elastic(Encoder(4, 3, 10))
    assert groups(net) == {"stem": (4, 3), "layer.linear1": (10, 1)}
    rows = thirds(12, 9)
    where = {"layer.self_attn.in_proj_weight": {0: rows}, "layer.self_attn.in_proj_bias": {0: rows}}
    assert_narrow(net, {"stem": 9, "layer.linear1": 4}, Encoder(3, 3, 4), rand(*TOKENS), where)


class Packed(nn.Module):
    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.heads, self.dim, self.scale = heads, dim, dim**-0.5
        self.qkv, self.out = nn.Linear(6, 3 * heads * dim), nn.Linear(heads * dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


def test_packed_qkv_loses_whole_heads():
    net = elastic(Packed(4, 3))
    assert groups(net) == {"qkv": (4, 9)}
    rows = thirds(12, 6)
    assert_narrow(
        net, {"qkv": 18}, Packed(2, 3), rand(*TOKENS), {"qkv.weight": {0: rows}, "qkv.bias": {0: rows}}
    )
    assert net.at(net.space.width({"qkv": 18})).heads == 2


class Derived(nn.Module):
    """Separate projections; the head size is computed from the channels and the number of heads."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        e = heads * dim
        self.num_heads = heads
        self.stem = nn.Linear(6, e)
        self.q, self.k, self.v = nn.Linear(e, e), nn.Linear(e, e, bias=False), nn.Linear(e, e)
        self.out = nn.Linear(e, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, n, c = x.shape
        q, k, v = (
            m(x).view(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)
            for m in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


def test_separate_projections_whose_head_size_is_computed():
    net = elastic(Derived(4, 3))
    assert all(size == 4 for size, _ in groups(net).values())
    assert_narrow(net, 0.5, Derived(2, 3), rand(*TOKENS))


class Free(nn.Module):
    """Separate projections with `num_heads` fixed by the code: every head loses the same dims."""

    def __init__(self, dim: int):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 2 * dim), nn.Linear(6, 2 * dim), nn.Linear(6, 2 * dim)
        self.out = nn.Linear(2 * dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (m(x).view(b, n, 2, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_counted_in_the_code_stay_and_lose_the_same_dims():
    net = elastic(Free(4))
    assert set(groups(net).values()) == {(4, 2)}
    assert len(groups(net)) == 2  # q with k, and v
    axis = [0, 1, 4, 5]
    rows = {f"{m}.{n}": {0: axis} for m in "qkv" for n in ("weight", "bias")}
    assert_narrow(net, 0.5, Free(2), rand(*TOKENS), {**rows, "out.weight": {1: axis}})


class Grouped(nn.Module):
    """Grouped-query attention: fewer heads of keys and values."""

    def __init__(self, heads: int, shared: int, dim: int):
        super().__init__()
        self.heads, self.shared, self.dim = heads, shared, dim
        self.q, self.kv = nn.Linear(6, heads * dim), nn.Linear(6, 2 * shared * dim)
        self.out = nn.Linear(heads * dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.shared, self.heads // self.shared, self.dim)
        k, v = self.kv(x).view(b, n, 2, self.shared, self.dim).unbind(2)
        a = torch.einsum("bnghd,bmgd->bghnm", q, k).softmax(-1)
        return self.out(torch.einsum("bghnm,bmgd->bnghd", a, v).flatten(2))


def test_einsum_attention_with_shared_keys():
    net = elastic(Grouped(4, 2, 3))
    assert groups(net) == {"q": (2, 6)}
    rows = [*range(3), *range(6, 9)]
    assert_narrow(
        net, {"q": 6}, Grouped(2, 1, 3), rand(*TOKENS), {"kv.weight": {0: rows}, "kv.bias": {0: rows}}
    )
    assert (net.at(0.5).heads, net.at(0.5).shared) == (2, 1)


class Timm(nn.Module):
    def __init__(self, heads: int, dim: int, **options):
        super().__init__()
        e = heads * dim
        self.stem, self.head = nn.Linear(6, e), nn.Linear(e, 3)
        self.attend = TimmAttention(e, heads, qkv_bias=True, norm_layer=nn.LayerNorm, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attend(self.stem(x)))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_timm_attention(qk_norm, fused):
    wide, compact = Timm(4, 3, qk_norm=qk_norm), Timm(2, 3, qk_norm=qk_norm)
    wide.attend.fused_attn = compact.attend.fused_attn = fused
    net = elastic(wide)
    assert groups(net) == {"stem": (12, 1), "attend.proj": (12, 1), "attend.qkv": (4, 9)}
    rows = thirds(12, 6)
    where = {"attend.qkv.weight": {0: rows}, "attend.qkv.bias": {0: rows}}
    assert_narrow(net, 0.5, compact, rand(*TOKENS), where)
    assert net.at(0.5).attend.num_heads == 2


class Swin(nn.Module):
    """A relative position bias table: one column per head."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.stem, self.head = nn.Linear(6, heads * dim), nn.Linear(heads * dim, 3)
        self.attend = WindowAttention(heads * dim, heads, window_size=(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attend(self.stem(x)))


def test_relative_position_bias_follows_the_heads():
    net = elastic(Swin(4, 3), 2, 4, 6)
    assert groups(net) == {"stem": (12, 1), "attend.proj": (12, 1), "attend.qkv": (4, 9)}
    rows = thirds(12, 6)
    where = {"attend.qkv.weight": {0: rows}, "attend.qkv.bias": {0: rows}}
    assert net.at(0.5).attend.relative_position_bias_table.shape == (9, 2)
    assert_narrow(net, 0.5, Swin(2, 3), rand(2, 4, 6), where)


class Vit(nn.Module):
    """Class token, position embedding, pre-norm block."""

    def __init__(self, heads: int, dim: int, hidden: int):
        super().__init__()
        e = heads * dim
        self.patch = nn.Conv2d(3, e, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, e)), nn.Parameter(torch.zeros(1, 5, e))
        self.norm1, self.norm2 = nn.LayerNorm(e), nn.LayerNorm(e)
        self.attend = TimmAttention(e, heads)
        self.up, self.down = nn.Linear(e, hidden), nn.Linear(hidden, e)
        self.head = nn.Linear(e, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        x = x + self.attend(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x[:, 0])


def test_vision_transformer_with_class_token_and_position_embedding():
    net = elastic(Vit(4, 3, 10), 2, 3, 8, 8)
    stream, hidden = next(g for g in net.space.groups if g.name == "patch"), 10
    assert {"cls", "pos"} <= {n.split(".")[0] for n in (*stream.writers, *stream.readers)}
    assert groups(net)["up"] == (hidden, 1)
    compact = Vit(2, 3, 5)
    assert_narrow(net, 0.5, compact, rand(2, 3, 8, 8), {"attend.qkv.weight": {0: thirds(12, 6)}})


class Gated(nn.Module):
    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


def test_packed_gated_mlp():
    net = elastic(Gated(GluMlp(6, 16, 3)))
    assert set(groups(net).values()) == {(8, 2)}
    rows = [*range(5), *range(8, 13)]
    where = {"mlp.fc1.weight": {0: rows}, "mlp.fc1.bias": {0: rows}}
    assert_narrow(net, net.space.from_vector([5 / 8]), Gated(GluMlp(6, 10, 3)), rand(*TOKENS), where)


def test_separate_gated_mlp():
    net = elastic(Gated(SwiGLU(6, 8, 3, norm_layer=nn.LayerNorm)))
    assert set(groups(net).values()) == {(8, 1)}
    assert_narrow(net, 0.625, Gated(SwiGLU(6, 5, 3, norm_layer=nn.LayerNorm)), rand(*TOKENS))


class Mixer(nn.Module):
    """Token mixing: a linear layer over the transposed grid, whose hidden tokens are channels too."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.up, self.down = nn.Linear(5, hidden), nn.Linear(hidden, 5)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(F.gelu(self.up(x.transpose(1, 2)))).transpose(1, 2)
        return self.head(x.mean(1))


def test_token_mixing():
    net = elastic(Mixer(8, 10))
    assert groups(net) == {"stem": (8, 1), "up": (10, 1)}
    assert_narrow(net, {"stem": 3, "up": 7}, Mixer(3, 7), rand(*TOKENS))


class Transposed(nn.Module):
    """Cross-covariance attention: heads attend over channels."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.heads, e = heads, heads * dim
        self.qkv, self.out = nn.Linear(6, 3 * e), nn.Linear(e, 3)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 4, 1)
        a = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * self.temperature).softmax(-1)
        return self.out((a @ v).permute(0, 3, 1, 2).reshape(b, n, -1))


def test_cross_covariance_attention_with_a_temperature_per_head():
    net = elastic(Transposed(4, 3))
    assert groups(net)["qkv"][0] == 4
    rows = thirds(12, 6)
    where = {"qkv.weight": {0: rows}, "qkv.bias": {0: rows}}
    assert_narrow(net, 0.5, Transposed(2, 3), rand(*TOKENS), where)


class Embedded(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.words, self.places = nn.Embedding(11, width), nn.Embedding(5, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1]))))


def test_embeddings_tied_to_the_output():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 10]])
    net = Elastic(randomized(Embedded(8)), ids)
    assert [g.size for g in net.space.groups] == [8]
    assert_narrow(net, 0.375, Embedded(3), ids)
    assert net.at(0.375).head.weight is net.at(0.375).words.weight
