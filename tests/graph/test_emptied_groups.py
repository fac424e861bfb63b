import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic, Width
from anywidth.graph.emptied_groups import deadened
from oracles import masked, rand, randomized

IMAGE = (2, 3, 6, 6)


class Shortcut(nn.Module):
    """The layers beside the shortcut may all go; what it reads then stays."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.stem, self.inner, self.out = nn.Conv2d(3, a, 1), nn.Conv2d(a, 6, 1), nn.Conv2d(6, b, 1)
        self.head = nn.Conv2d(b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.out(self.inner(x))
        return self.head(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))).mean((2, 3))


def test_what_a_shortcut_reads_is_not_dead():
    net = Elastic(randomized(Shortcut(8, 12)), rand(*IMAGE))
    kept = {"stem": 5, "inner": 0, "out": 9}
    width = Width(names=net.space.names, kept=tuple(kept[n] for n in net.space.names))
    assert deadened(net.space, width) == width
    narrow, x = net.extract(width), rand(*IMAGE, seed=3)
    wide = masked(net, Width(names=width.names, kept=tuple(max(1, k) for k in width.kept)))
    with torch.no_grad():
        wide.inner.weight.zero_()
        wide.inner.bias.zero_()
    torch.testing.assert_close(narrow(x), wide(x), rtol=0, atol=1e-12)
