"""Models of the coverage benchmark that no library of its environment has, written as their papers' code writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RecurrentClassifier(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.rnn = kind(32, 48, num_layers=2, batch_first=True, bidirectional=bidirectional)  # type: ignore[call-arg]
        self.head = nn.Linear(96 if bidirectional else 48, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.table(tokens))[0].mean(1))


class Seq2Seq(nn.Module):
    """GRU encoder, GRU decoder and dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 32), nn.Embedding(40, 32)
        self.encoder, self.decoder = nn.GRU(32, 48, batch_first=True), nn.GRU(32, 48, batch_first=True)
        self.mix, self.head = nn.Linear(96, 48), nn.Linear(48, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.source(source))
        steps, _ = self.decoder(self.target(target), state)
        weights = torch.bmm(steps, memory.transpose(1, 2)).softmax(-1)
        return self.head(torch.tanh(self.mix(torch.cat([steps, torch.bmm(weights, memory)], -1))))


class Generator(nn.Sequential):
    """The generator of DCGAN, arXiv 1511.06434."""

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.ConvTranspose2d(24, width * 4, 4, 1, 0, bias=False), nn.BatchNorm2d(width * 4), nn.ReLU()]  # fmt: skip
        for factor in (4, 2):
            layers += [nn.ConvTranspose2d(width * factor, width * factor // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width * factor // 2), nn.ReLU()]  # fmt: skip
        super().__init__(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


class ModulatedConv(nn.Module):
    """A convolution whose weight is scaled per image and demodulated: StyleGAN2, arXiv 1912.04958, sec. 2.2."""

    def __init__(self, channels: int, out: int, style: int, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out, channels, 3, 3) * 0.1)
        self.style, self.demodulate = nn.Linear(style, channels), demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, c, h, width = x.shape
        weight = self.weight * (self.style(w) + 1).view(n, 1, c, 1, 1)
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        out = weight.shape[1]
        x = F.conv2d(x.reshape(1, n * c, h, width), weight.reshape(n * out, c, 3, 3), padding=1, groups=n)
        return x.view(n, out, h, width)


class StyleGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(24, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2))  # fmt: skip
        self.start = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.convs = nn.ModuleList([ModulatedConv(32, 32, 48), ModulatedConv(32, 24, 48)])
        self.picture = ModulatedConv(24, 3, 48, demodulate=False)

    def forward(self, z: Tensor) -> Tensor:
        w, x = self.mapping(z), self.start.repeat(z.shape[0], 1, 1, 1)
        for conv in self.convs:
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0), w), 0.2)
        return self.picture(x, w)


class TemporalBlock(nn.Module):
    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(channels, hidden, 1), nn.PReLU(), nn.GroupNorm(1, hidden, eps=1e-8),
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden), nn.PReLU(), nn.GroupNorm(1, hidden, eps=1e-8),
        )  # fmt: skip
        self.residual, self.skip = nn.Conv1d(hidden, channels, 1), nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net(x)
        return x + self.residual(y), self.skip(y)


class ConvTasNet(nn.Module):
    """Encoder, mask of a temporal convolutional network, decoder: arXiv 1809.07454."""

    def __init__(self, sources: int = 2, filters: int = 48, channels: int = 32) -> None:
        super().__init__()
        self.sources = sources
        self.encoder, self.decoder = nn.Conv1d(1, filters, 16, 8, bias=False), nn.ConvTranspose1d(filters, 1, 16, 8, bias=False)  # fmt: skip
        self.norm, self.bottleneck = nn.GroupNorm(1, filters, eps=1e-8), nn.Conv1d(filters, channels, 1)
        self.blocks = nn.ModuleList(TemporalBlock(channels, 64, 2**i) for i in range(3))
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(channels, filters * sources, 1))

    def forward(self, wave: Tensor) -> Tensor:
        features = self.encoder(wave)
        x, skips = self.bottleneck(self.norm(features)), 0
        for block in self.blocks:
            x, skip = block(x)
            skips = skips + skip
        n, filters, frames = features.shape
        masks = torch.sigmoid(self.mask(skips)).view(n, self.sources, filters, frames)
        masked = (masks * features.unsqueeze(1)).view(n * self.sources, filters, frames)
        return self.decoder(masked).view(n, self.sources, -1)


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, a gated depthwise convolution, half a feed-forward: arXiv 2005.08100."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        feed = lambda: nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d))  # noqa: E731
        self.first, self.second = feed(), feed()
        self.attention_norm, self.attention = nn.LayerNorm(d), nn.MultiheadAttention(d, 4, batch_first=True)
        self.conv_norm = nn.LayerNorm(d)
        self.conv = nn.Sequential(nn.Conv1d(d, 2 * d, 1), nn.GLU(1), nn.Conv1d(d, d, 7, padding=3, groups=d), nn.BatchNorm1d(d), nn.SiLU(), nn.Conv1d(d, d, 1))  # fmt: skip
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        y = self.attention_norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.conv(self.conv_norm(x).transpose(1, 2)).transpose(1, 2)
        return self.norm(x + 0.5 * self.second(x))


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front, self.blocks, self.head = nn.Conv1d(20, 48, 3, 2), nn.Sequential(ConformerBlock(), ConformerBlock()), nn.Linear(48, 12)  # fmt: skip

    def forward(self, mel: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.front(mel)).transpose(1, 2))).log_softmax(-1)


class Experts(nn.Module):
    """A mixture of experts in which the example's tokens visit some experts only."""

    def __init__(self, count: int = 16) -> None:
        super().__init__()
        self.inside, self.gate, self.head = nn.Linear(10, 32), nn.Linear(32, count), nn.Linear(32, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == index)
            if rows.numel():
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slot].unsqueeze(1))
        return self.head(x + out)


class Recommender(nn.Module):
    """DLRM, arXiv 1906.00091: bags of sparse features, a bottom and a top perceptron, dot products between them."""

    def __init__(self, d: int = 16) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(30, d, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, d), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(d + 6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        features = torch.stack([x] + [t(sparse[:, i]) for i, t in enumerate(self.tables)], 1)
        products = torch.bmm(features, features.transpose(1, 2))
        i, j = torch.tril_indices(4, 4, -1)
        return self.top(torch.cat([x, products[:, i, j]], 1))


def _tokens(length: int, batch: int = 3) -> Tensor:
    return torch.randint(0, 40, (batch, length))


_MAKERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "lstm": lambda: (RecurrentClassifier(nn.LSTM), _tokens(9)),
    "gru": lambda: (RecurrentClassifier(nn.GRU), _tokens(9)),
    "bilstm": lambda: (RecurrentClassifier(nn.LSTM, bidirectional=True), _tokens(9)),
    "seq2seq": lambda: (Seq2Seq(), (_tokens(9), _tokens(6))),
    "dcgan": lambda: (Generator(), torch.randn(2, 24, 1, 1)),
    "stylegan": lambda: (StyleGenerator(), torch.randn(2, 24)),
    "convtasnet": lambda: (ConvTasNet(), torch.randn(1, 1, 400)),
    "conformer": lambda: (Conformer(), torch.randn(1, 20, 64)),
    "transformer": lambda: (
        nn.Transformer(48, 4, 2, 2, 96, batch_first=True),
        (torch.randn(1, 7, 48), torch.randn(1, 5, 48)),
    ),
    "experts": lambda: (Experts(), torch.randn(4, 10)),
    "dlrm": lambda: (Recommender(), (torch.randn(4, 8), torch.randint(0, 30, (4, 3, 5)))),
}
FAMILIES = {
    "rnn": ["lstm", "gru", "bilstm", "seq2seq"],
    "gan": ["dcgan", "stylegan"],
    "audio": ["convtasnet", "conformer"],
    "other": ["transformer", "experts", "dlrm"],
}


def make(name: str) -> tuple[nn.Module, Any]:
    return _MAKERS[name]()
