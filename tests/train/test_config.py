import math

import pytest

from anywidth.train import FitConfig


def test_defaults_are_valid():
    assert FitConfig(epochs=1, lr=0.1).target == "widest"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs = 0: expected at least 1"),
        ({"lr": 0.0}, "lr = 0.0: expected a number above 0"),
        ({"lr": math.nan}, "lr = nan: expected a number above 0"),
        ({"momentum": 1.0}, "momentum = 1.0: expected 0 <= momentum < 1"),
        ({"momentum": 0.0}, "nesterov = True: expected false where momentum is 0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: expected a number from 0"),
        ({"warmup_epochs": 5.0}, "warmup_epochs = 5.0: expected from 0 to below 5 epochs"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0: expected 0 <= label_smoothing < 1"),
        ({"log_every": 0}, "log_every = 0: expected at least 1 step"),
    ],
)
def test_a_number_out_of_range_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        FitConfig(**{"epochs": 5, "lr": 0.1, **change})
