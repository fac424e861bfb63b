"""One step against a network whose narrow forms are cut by hand, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.train import accumulate_, fixed, sandwich

WIDTHS = (1.0, 0.25, 0.75, 0.5)


def wide_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).double()


def hand_sliced(p: dict[str, torch.Tensor], x: torch.Tensor, width: float) -> torch.Tensor:
    a, b = round(8 * width), round(12 * width)
    x = F.conv2d(x, p["0.weight"][:a], p["0.bias"][:a], padding=1)
    x = F.relu(F.batch_norm(x, None, None, p["1.weight"][:a], p["1.bias"][:a], training=True))
    x = F.conv2d(x, p["3.weight"][:b, :a], stride=2)
    x = F.relu(F.batch_norm(x, None, None, p["4.weight"][:b], p["4.bias"][:b], training=True))
    return F.linear(x.mean((2, 3)), p["8.weight"][:, :b], p["8.bias"])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 2, 9, 9, dtype=torch.float64, generator=generator)
    return images, torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("distill", [True, False])
def test_losses_and_gradients_equal_hand_sliced_widths(distill):
    model = wide_model()
    p = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    images, labels = batch()
    logits = [hand_sliced(p, images, width) for width in WIDTHS]
    expected = [F.cross_entropy(logits[0], labels, label_smoothing=0.1)]
    teacher = logits[0].detach().softmax(1)
    for narrow in logits[1:]:
        soft = -(teacher * narrow.log_softmax(1)).sum(1).mean()
        expected.append(soft if distill else F.cross_entropy(narrow, labels, label_smoothing=0.1))
    sum(expected).backward()

    net = Elastic(model, images).train()
    losses = accumulate_(net, images, labels, WIDTHS, distill=distill, smoothing=0.1)

    torch.testing.assert_close(losses, torch.stack(expected).detach())
    assert not losses.requires_grad
    for name, value in net.model.named_parameters():
        torch.testing.assert_close(value.grad, p[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_of_two_calls_add_up():
    images, labels = batch()
    net = Elastic(wide_model(), images).train()
    accumulate_(net, images, labels, WIDTHS)
    once = [value.grad.clone() for value in net.model.parameters()]
    accumulate_(net, images, labels, WIDTHS)
    for value, gradient in zip(net.model.parameters(), once, strict=True):
        torch.testing.assert_close(value.grad, 2 * gradient)


def test_sandwich_is_the_widest_the_narrowest_and_random_ones_between():
    draw = sandwich(low=0.25, high=0.75, random=500)
    high, low, *others = draw(torch.Generator().manual_seed(0))
    assert (high, low) == (0.75, 0.25)
    assert len(others) == len(set(others)) == 500
    assert 0.25 <= min(others) < 0.26
    assert 0.74 < max(others) < 0.75
    assert torch.tensor(others).mean().item() == pytest.approx(0.5, abs=0.02)


def test_sandwich_follows_its_generator_alone():
    draw = sandwich(low=0.25, high=1.0, random=2)
    first = draw(torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    assert draw(torch.Generator().manual_seed(3)) == first
    assert draw(torch.Generator().manual_seed(4)) != first


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.0, "high": 1.0, "random": 2},
        {"low": 0.5, "high": 0.5, "random": 2},
        {"low": 0.5, "high": 1.5, "random": 2},
        {"low": 0.5, "high": 1.0, "random": -1},
    ],
)
def test_an_impossible_sandwich_is_refused(options):
    with pytest.raises(WidthError, match="expected 0 < low < high <= 1 and random >= 0, got low="):
        sandwich(**options)


def test_fixed_widths_are_drawn_every_time():
    draw = fixed([1.0, "small"])
    assert draw(torch.Generator()) == (1.0, "small")


def test_no_fixed_widths_are_refused():
    with pytest.raises(WidthError, match="the list is empty"):
        fixed([])
