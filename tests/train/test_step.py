"""One step against a network whose narrow forms are cut by hand, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anywidth.elastic import Elastic
from anywidth.train import accumulate_, ema, widest
from anywidth.train import labels as hard
from anywidth.train.step import Pass

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
    losses = accumulate_(net, images, labels, WIDTHS, target=(widest if distill else hard)(smoothing=0.1))

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


def test_the_moving_average_teaches_at_the_widest_width_of_the_step():
    """Where the whole network is never trained, it has nothing to teach."""
    net = Elastic(wide_model(), torch.zeros(1, 2, 8, 8, dtype=torch.float64), widths=[0.75, 0.25])
    asked = []

    def teacher(images, width):
        asked.append(width)
        return torch.zeros(len(images), 5, dtype=torch.float64)

    x, y = batch()
    for widths in ([0.75, 0.25], [1.0, 0.75, 0.25]):
        accumulate_(net, x, y, widths, target=ema(), how=Pass(teacher=teacher))
    assert asked == [0.75, None]
