import pytest
import torch
from torch import nn

from anywidth.train.schedule import lr_factor


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    found = [lr_factor(step, steps=6, warmup=2, schedule=schedule) for step in range(6)]
    assert found == pytest.approx(expected, abs=1e-15)


def test_cosine_equals_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    expected = []
    for _ in range(10):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [lr_factor(s, steps=10, warmup=0, schedule="cosine") for s in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_falls_and_stays_positive(schedule):
    factors = [lr_factor(step, steps=100, warmup=7, schedule=schedule) for step in range(7, 100)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 0


@pytest.mark.parametrize("step", [-1, 6])
def test_a_step_outside_the_training_is_refused(step):
    with pytest.raises(ValueError, match=f"step {step} is outside a training of 6 steps"):
        lr_factor(step, steps=6, warmup=0, schedule="linear")


def test_a_warm_up_from_a_part_of_the_peak():
    rises = [lr_factor(s, steps=10, warmup=3, schedule="constant", warmup_from=0.4) for s in range(4)]
    assert rises == pytest.approx([0.6, 0.8, 1.0, 1.0])
