import inspect

import pytest
import torch
from torch import Tensor, nn

from anywidth.elastic import Elastic
from anywidth.views.model_signature import ModelForward


class Doubling:
    """A network that wraps a model."""

    forward = ModelForward()

    def __init__(self, model):
        self.model = model

    def _run(self, *args, **kwargs):
        return 2 * self.model.forward(*args, **kwargs)


class Model:
    def forward(self, x: int, *, scale: int = 3) -> int:
        return scale * x


def test_a_forward_has_the_signature_of_the_models():
    assert inspect.signature(Doubling(Model()).forward) == inspect.signature(Model().forward)


def test_it_runs_what_the_owner_runs():
    owner = Doubling(Model())
    assert owner.forward(5) == Doubling.forward(owner, 5) == 30
    assert owner.forward(x=5, scale=1) == 10
    assert owner.forward.__self__ is owner


def test_an_elastic_network_is_called_as_its_model_is():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.b(self.a(pixel_values))

    net = Elastic(Named(), torch.zeros(1, 3))
    assert list(inspect.signature(net.forward).parameters) == ["pixel_values", "labels"]
    x = torch.randn(2, 3)
    torch.testing.assert_close(net(pixel_values=x), net.model(x))
    with pytest.raises(TypeError, match="pixels"):
        net.forward(pixels=x)
