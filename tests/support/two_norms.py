"""A network with two batch norms, its half built by hand, and their statistics computed by hand."""

import torch
from torch import Tensor, nn

from anywidth import Elastic
from anywidth.norms.bank import width_key
from oracles import fill_, rand, randomized


class Net(nn.Module):
    """Two batch norms; the second one reads a concatenation, so its channels are no prefix."""

    def __init__(self, a: int, b: int, momentum: float | None = 0.1):
        super().__init__()
        self.a, self.n1 = nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a, momentum=momentum)
        self.b, self.n2 = nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(a + b, momentum=momentum)
        self.head = nn.Linear(a + b, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.n1(self.a(x)).relu()
        return self.head(self.n2(torch.cat([x, self.b(x)], 1)).relu().mean((2, 3)))


SIZES, X = (8, 6), rand(4, 3, 5, 5)
BATCHES = [(rand(4, 3, 5, 5, seed=s), torch.zeros(4)) for s in range(5)]
HALF = [0, 1, 2, 3, 8, 9, 10]  # channels of n2 when both groups are halved
WHERE = {f"n2.{t}": {0: HALF} for t in ("weight", "bias", "running_mean", "running_var")} | {
    "head.weight": {1: HALF}
}


def elastic(**options) -> Elastic:
    return Elastic(randomized(Net(*SIZES, momentum=options.pop("momentum", 0.1))), X, **options)


def half(net: Elastic) -> nn.Module:
    return fill_(Net(4, 3), net.model, WHERE)


def statistics(net: Elastic, w) -> dict[str, Tensor]:
    key = width_key(net.width(w))
    return {n.split("/", 1)[1]: t for n, t in net.norm_state().items() if n.startswith(key)}


def by_hand(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Mean over batches of batch means and unbiased batch variances, each batch normalised by its own."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = []
    for name, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):

            def note(m: nn.Module, args: tuple[Tensor], out: Tensor, name: str = name) -> None:
                x = args[0].transpose(0, 1).flatten(1)
                seen.setdefault(name, []).append(
                    (x.mean(1), ((x - x.mean(1, keepdim=True)) ** 2).sum(1) / (x.shape[1] - 1))
                )

            handles.append(m.register_forward_hook(note))
    model.train()
    with torch.no_grad():
        for x in batches:
            model(x)
    for h in handles:
        h.remove()
    return {
        f"{n}.{k}": torch.stack([pair[i] for pair in pairs]).mean(0)
        for n, pairs in seen.items()
        for i, k in enumerate(("running_mean", "running_var"))
    }
