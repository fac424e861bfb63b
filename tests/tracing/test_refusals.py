"""What cannot be traced is refused with its place and a way out, and is as before."""

import pytest
import torch
from torch import Tensor, nn

from anywidth import Elastic
from anywidth.errors import TraceError
from model_snapshots import differences, snapshot
from oracles import rand


class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 2))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.block(x) * scale


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((rand(2, 4).float(), rand(1).float()), r"in module 'block\.1': RuntimeError: .*2 arguments: float32 \(2, 4\) on cpu"),
        (rand(2, 4), r"in the model itself: TypeError: .*missing 1 required positional argument: 'scale'.*1 argument: float64"),
        ((), r"in the model itself: TypeError: .*missing 2 required.*called with no arguments"),
        ({}, r"called with no arguments"),
        ({"x": rand(2, 4), "other": 3}, r"unexpected keyword.*the keywords x, other: float64 \(2, 4\) on cpu; the model is float32 on cpu"),
        ((rand(2, 4), 1.0), r"in module 'block\.0'.*the model is float32 on cpu"),
        ((rand(2, 4).to("meta"), 1.0), r"float64 \(2, 4\) on meta; the model is float32 on cpu"),
        (None, "example_inputs is missing"),
    ],
)  # fmt: skip
def test_a_call_that_fails_is_described(example, message):
    model = Crossed()
    before = snapshot(model)
    with pytest.raises(TraceError, match=message) as caught:
        Elastic(model, example)
    assert "Give" in str(caught.value)
    assert differences(before, snapshot(model)) == []


@pytest.mark.parametrize(
    ("lazy", "name"),
    [(nn.LazyLinear(3), "1.weight"), (nn.LazyConv2d(3, 1), "1.weight"), (nn.LazyBatchNorm1d(), "1.weight")],
)
def test_lazy_modules_are_to_be_run_first(lazy, name):
    model = nn.Sequential(nn.Linear(4, 8), lazy)
    with pytest.raises(TraceError, match=f"'{name}' of Lazy.*Run the model once first"):
        Elastic(model, rand(2, 4).float())
    assert type(model[1]) is type(lazy)
    assert model[1].has_uninitialized_params()


def test_a_model_without_parameters():
    with pytest.raises(TraceError, match=r"Sequential has no parameters.*nn.ModuleList"):
        Elastic(nn.Sequential(nn.ReLU()), rand(2, 4))


def test_a_model_without_products_costs_none():
    net = Elastic(nn.Embedding(10, 4), torch.tensor([[1, 2]]))
    assert (net.space.groups, net.macs(1.0), net.params(0.5)) == ((), 0, 40)
