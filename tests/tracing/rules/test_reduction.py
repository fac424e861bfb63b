import torch.nn.functional as F
from torch import Tensor, nn

from oracles import assert_narrow, groups, rand
from traced_nets import IMAGE, elastic, readers


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.squeeze, self.excite = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        return self.head(y * gate.sigmoid())


def test_squeeze_and_excitation_ties_the_gate_to_what_it_scales():
    net = elastic(SqueezeExcite(8, 4))
    assert groups(net) == {"stem": (8, 1), "squeeze": (4, 1)}
    assert readers(net, "stem")[0] == {"stem", "excite"}
    assert_narrow(net, {"stem": 5, "squeeze": 2}, SqueezeExcite(5, 2), rand(*IMAGE))
