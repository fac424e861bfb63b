import pytest
import torch

from anywidth.train.precision import autocast, scaler

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_forward_computes_in_its_precision_and_weights_stay(precision, dtype):
    layer = torch.nn.Linear(3, 2)
    with autocast(CPU, precision):
        assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 3)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_are_scaled_in_float16_alone(precision):
    loss = torch.tensor(0.5)
    assert scaler(CPU, precision).scale(loss) is loss
    scaled = scaler(CPU, "float16")
    assert scaled.is_enabled()
    assert scaled.scale(loss) == 0.5 * scaled.get_scale() > loss
