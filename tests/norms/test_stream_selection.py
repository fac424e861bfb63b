import pytest
import torch
from torch import Tensor, nn

from anywidth.channel_select import selects
from anywidth.errors import TraceError
from anywidth.norms.stream_selection import fed_by, reading_subsets


class Streams(nn.Module):
    """Norms that read one layer, a layer that others read too, a sum, and the same layer twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.after, self.beside, self.of_sum, self.twice = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.a(x)).relu_()
        z = self.b(y)
        y = z + self.beside(z)
        y = self.of_sum(y)
        return self.twice(self.twice(self.c(y)))


def test_a_norm_is_fed_by_the_one_layer_that_it_alone_reads():
    assert fed_by(Streams(), torch.randn(2, 3, 4, 4)) == {
        "after": "a", "beside": None, "of_sum": None, "twice": None
    }  # fmt: skip


def test_looking_changes_nothing():
    model = Streams().train()
    model.after.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fed_by(model, torch.randn(2, 3, 4, 4))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert (model.training, model.after.training, model.beside.training) == (True, False, True)


def test_a_model_that_does_not_run_is_named():
    with pytest.raises(TraceError, match="Streams failed on its example inputs"):
        fed_by(Streams(), torch.randn(2, 5, 4, 4))


def test_norms_that_select_everything_change_no_output_and_share_all_tensors():
    model, x = Streams().eval(), torch.randn(2, 3, 4, 4)
    selecting = reading_subsets(model, ["of_sum"])
    torch.testing.assert_close(selecting(x), model(x))
    assert selects(selecting.of_sum)
    assert not selects(model.of_sum)
    assert selecting.of_sum.index.tolist() == [0, 1, 2]
    assert all(p is q for p, q in zip(model.parameters(), selecting.parameters(), strict=True))
    assert selecting.after.running_mean is model.after.running_mean
