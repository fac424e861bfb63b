"""The published networks a second time, from their description alone: functional, sliced by hand, with their key names.

Running a network creates the tensors it lacks, so one description serves to make a checkpoint and to run it. Nothing of
the package is used here but the published channel lists.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anywidth.interop.autoslim_lists import LISTS

QUARTERS = (0.25, 0.5, 0.75, 1.0)
WIDTHS = {
    "s_mobilenet_v1": QUARTERS,
    "s_mobilenet_v2": (0.35, 0.5, 0.75, 1.0),
    "s_resnet50": QUARTERS,
    "s_shufflenet": (0.5, 1.0, 2.0),
    "us_mobilenet_v1": tuple(round(0.25 + 0.025 * i, 3) for i in range(31)),
    "us_mobilenet_v2": tuple(round(0.35 + 0.025 * i, 3) for i in range(27)),
}
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
V2_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
MNAS_STRIDES = (1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 1, 1)
MNAS_KERNELS = (3, 3, 3, 3, 5, 5, 5, 5, 5, 5, 3, 3, 5, 5, 5, 5, 3)


def md(value: float) -> int:
    q = max(int(value + 4) // 8 * 8, 1)
    return q + 8 if q < 0.9 * value else q


class Reference:
    """A network of the reference with random weights.

    Args:
        model: its name.
        widths: the widths of a universal network; by default all.
    """

    def __init__(self, model: str, widths: Sequence[float] | None = None, *, seed: int = 0) -> None:
        self.model = model
        self.widths = widths or WIDTHS.get(model) or tuple(range(1, len(LISTS[model]) + 1))
        self.universal = model.startswith("us_")
        self.random = torch.Generator().manual_seed(seed)
        self.state: dict[str, Tensor] = {}
        self.forward(torch.zeros(1, 3, 64, 64, dtype=torch.float64), len(self.widths) - 1)

    def checkpoint(self) -> dict[str, Tensor]:
        """Names as in the files, weights in float32."""
        return {f"module.{k}": v.float() if v.is_floating_point() else v for k, v in self.state.items()}

    # --- layers: `c` and `k` are channels of every switch, `i` the active one

    def tensor(self, name: str, *shape: int, positive: bool = False, scale: float = 1.0) -> Tensor:
        if name not in self.state:
            made = torch.randn(shape, generator=self.random).mul(scale)
            self.state[name] = (made.abs() + 0.5 if positive else made).double()
        return self.state[name]

    def conv(self, x, name, c, k, size, stride, i, *, depthwise=False, padding=None):
        inputs = 1 if depthwise else max(c)
        weight = self.tensor(
            f"{name}.weight", max(k), inputs, size, size, scale=(inputs * size * size) ** -0.5
        )
        weight = weight[: k[i]] if depthwise else weight[: k[i], : c[i]]
        groups = c[i] if depthwise else 1
        return F.conv2d(x, weight, None, stride, size // 2 if padding is None else padding, 1, groups)

    def norm(self, x, name, c, i, *, plain=False):
        def statistics(prefix, size):
            self.tensor(f"{prefix}.running_mean", size, scale=0.2)
            self.tensor(f"{prefix}.running_var", size, positive=True)
            self.state.setdefault(f"{prefix}.num_batches_tracked", torch.tensor(0 if self.universal else 7))

        def affine(prefix, size):
            self.tensor(f"{prefix}.weight", size, positive=True)
            self.tensor(f"{prefix}.bias", size, scale=0.2)

        if plain:
            affine(name, max(c))
            statistics(name, max(c))
            own, run = name, name
        else:
            if self.universal:
                affine(name, max(c))
            for j, size in enumerate(c):
                if not self.universal:
                    affine(f"{name}.bn.{j}", size)
                statistics(f"{name}.bn.{j}", size)
            own, run = name if self.universal else f"{name}.bn.{i}", f"{name}.bn.{i}"
        s, n = self.state, c[i]
        shape = (1, -1, 1, 1)
        x = (x - s[f"{run}.running_mean"].view(shape)) / (s[f"{run}.running_var"].view(shape) + 1e-5).sqrt()
        return x * s[f"{own}.weight"][:n].view(shape) + s[f"{own}.bias"][:n].view(shape)

    def classify(self, x, c, i):
        x = x.mean((2, 3))
        weight = self.tensor("classifier.0.weight", 1000, max(c), scale=max(c) ** -0.5)
        return F.linear(x, weight[:, : c[i]], self.tensor("classifier.0.bias", 1000))

    def depthwise_norm_act(self, x, name, norm, c, size, stride, i):
        return F.relu6(self.norm(self.conv(x, name, c, c, size, stride, i, depthwise=True), norm, c, i))

    # --- networks

    def forward(self, x: Tensor, i: int) -> Tensor:
        """Logits of switch `i` in evaluation mode; x: (N, 3, H, W) in float64."""
        name = self.model.split("_", 1)[1]
        with torch.no_grad():
            return getattr(self, f"_{name}")(x, i)

    def _rounded(self, base):
        return [md(base * w) for w in self.widths]

    def _columns(self):
        return [list(column) for column in zip(*LISTS[self.model], strict=True)]

    def _mobilenet_v1(self, x, i):
        if self.model in LISTS:
            c = self._columns()[:-1]
        else:
            c = [self._rounded(b) for b in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
        image = [3] * len(self.widths)
        x = F.relu6(self.norm(self.conv(x, "features.0.0", image, c[0], 3, 2, i), "features.0.1", c[0], i))
        for b, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), start=1):
            body = f"features.{b}.body"
            x = self.depthwise_norm_act(x, f"{body}.0", f"{body}.1", c[b - 1], 3, stride, i)
            x = F.relu6(self.norm(self.conv(x, f"{body}.3", c[b - 1], c[b], 1, 1, i), f"{body}.4", c[b], i))
        return self.classify(x, c[-1], i)

    def _mobilenet_v2(self, x, i):
        n = len(self.widths)
        if self.model in LISTS:
            c = self._columns()[:-1]
            triples = [(c[0], c[1])] + [(c[2 + 2 * b], c[3 + 2 * b]) for b in range(16)]
            return self._stack(x, i, c[0], triples, V2_STRIDES, (3,) * 17, c[-1], plain_tail=False)
        stem = self._rounded(32)
        triples, before = [], stem
        for t, base, blocks, _ in V2:
            for _ in range(blocks):
                outputs = self._rounded(base)
                triples.append(([t * b for b in before], outputs))
                before = outputs
        return self._stack(
            x, i, stem, triples, V2_STRIDES, (3,) * 17, [md(1280 * max(1, *self.widths))] * n, plain_tail=True
        )

    def _mnasnet(self, x, i):
        c = self._columns()[:-1]
        triples = [(c[0], c[1])] + [(c[2 + 2 * b], c[3 + 2 * b]) for b in range(16)]
        return self._stack(x, i, c[0], triples, MNAS_STRIDES, MNAS_KERNELS, c[-1], plain_tail=False)

    def _stack(self, x, i, stem, triples, strides, kernels, tail, *, plain_tail):
        image = [3] * len(self.widths)
        x = F.relu6(self.norm(self.conv(x, "features.0.0", image, stem, 3, 2, i), "features.0.1", stem, i))
        before = stem
        for b, ((hidden, outputs), stride, size) in enumerate(
            zip(triples, strides, kernels, strict=True), start=1
        ):
            body, y, at = f"features.{b}.body", x, 0
            if b > 1:
                y = F.relu6(
                    self.norm(self.conv(y, f"{body}.0", before, hidden, 1, 1, i), f"{body}.1", hidden, i)
                )
                at = 3
            y = self.depthwise_norm_act(y, f"{body}.{at}", f"{body}.{at + 1}", hidden, size, stride, i)
            y = self.norm(
                self.conv(y, f"{body}.{at + 3}", hidden, outputs, 1, 1, i), f"{body}.{at + 4}", outputs, i
            )
            x = x + y if stride == 1 and before == outputs else y
            before = outputs
        x = self.norm(
            self.conv(x, "features.18.0", before, tail, 1, 1, i), "features.18.1", tail, i, plain=plain_tail
        )
        return self.classify(F.relu6(x), tail, i)

    def _resnet50(self, x, i):
        blocks = []
        if self.model in LISTS:
            c = iter(self._columns()[:-1])
            stem = next(c)
            for count in (3, 4, 6, 3):
                next(c)
                blocks += [(next(c), next(c), next(c)) for _ in range(count)]
        else:
            stem = [int(64 * w) for w in self.widths]
            for base, count in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
                outputs = [int(4 * base * w) for w in self.widths]
                middle = [c // 4 for c in outputs]
                blocks += [(middle, middle, outputs)] * count
        image = [3] * len(self.widths)
        x = F.relu(self.norm(self.conv(x, "features.0.0", image, stem, 7, 2, i), "features.0.1", stem, i))
        x, before = F.max_pool2d(x, 3, 2, 1), stem
        for b, (m1, m2, outputs) in enumerate(blocks, start=1):
            stride = 2 if b in (4, 8, 14) else 1
            body, short = f"features.{b}.body", f"features.{b}.shortcut"
            y = F.relu(self.norm(self.conv(x, f"{body}.0", before, m1, 1, 1, i), f"{body}.1", m1, i))
            y = F.relu(self.norm(self.conv(y, f"{body}.3", m1, m2, 3, stride, i), f"{body}.4", m2, i))
            y = self.norm(self.conv(y, f"{body}.6", m2, outputs, 1, 1, i), f"{body}.7", outputs, i)
            if stride == 2 or before != outputs:
                x = self.norm(
                    self.conv(x, f"{short}.0", before, outputs, 1, stride, i), f"{short}.1", outputs, i
                )
            x, before = F.relu(x + y), outputs
        return self.classify(x, before, i)

    def _shufflenet(self, x, i):
        def each(c, parts):
            return [n // parts for n in c]

        stem, *stages = ([int(base * w) for w in self.widths] for base in (24, 240, 480, 960))
        image, heads = [3] * len(self.widths), []
        for g in range(3):
            y = self.norm(
                self.conv(x, f"head_{g}.0", image, each(stem, 3), 3, 2, i), f"head_{g}.1", each(stem, 3), i
            )
            heads.append(F.max_pool2d(F.relu(y), 3, 2))
        x, before, b = torch.cat(heads, 1), stem, 0
        for outputs, count in zip(stages, (4, 8, 4), strict=True):
            for block in range(count):
                stride = 1 if block else 2
                name, middle = f"features.{b}", each(outputs, 4)
                m, full = each(middle, 3), b == 0
                reads = before if full else each(before, 3)
                own = outputs if stride == 1 else [o - c for o, c in zip(outputs, before, strict=True)]
                parts = [x] * 3 if full else x.split(before[i] // 3, 1)
                a = [
                    F.relu(
                        self.norm(self.conv(p, f"{name}.a_{g}.0", reads, m, 1, 1, i), f"{name}.a_{g}.1", m, i)
                    )
                    for g, p in enumerate(parts)
                ]
                y = torch.stack(a, 2).flatten(1, 2)  # channel j of group g goes to place 3 j + g
                y = self.norm(
                    self.conv(y, f"{name}.b.1", middle, middle, 3, stride, i, depthwise=True),
                    f"{name}.b.2",
                    middle,
                    i,
                )
                k = each(own, 3)
                y = torch.cat(
                    [
                        self.norm(self.conv(p, f"{name}.c_{g}.0", m, k, 1, 1, i), f"{name}.c_{g}.1", k, i)
                        for g, p in enumerate(y.split(m[i], 1))
                    ],
                    1,
                )
                x = F.relu(x + y) if stride == 1 else torch.cat([F.relu(y), F.avg_pool2d(x, 3, 2, 1)], 1)
                before, b = outputs, b + 1
        return self.classify(x, before, i)
