import pytest
import torch

from anywidth.train import alpha
from anywidth.train.targets import Context, label_loss
from anywidth.train.targets.alpha import adaptive_divergence
from taught_logits import LABELS, STUDENT, TEACHER


def divergence(p, q, a):
    """D_alpha(p || q) of arXiv 2102.07954, equation 4."""
    if a == 1:
        return (p * (p / q).log()).sum(1)
    if a == 0:
        return (q * (q / p).log()).sum(1)
    return ((q * (p / q) ** a).sum(1) - 1) / (a * (a - 1))


@pytest.mark.parametrize("pair", [(-1.0, 1.0), (-0.5, 2.0), (0.0, 0.5)])
def test_without_clipping_it_is_the_larger_divergence_and_its_gradient(pair):
    low, high = pair
    expected_logits = STUDENT.clone().requires_grad_()
    p, q = TEACHER.softmax(1), expected_logits.softmax(1)
    expected = torch.maximum(divergence(p, q, low), divergence(p, q, high)).mean()
    expected.backward()
    logits = STUDENT.clone().requires_grad_()
    got = adaptive_divergence(logits, TEACHER, minimum=low, maximum=high, clip=1e9)
    got.backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(logits.grad, expected_logits.grad)


def test_clipping_bounds_the_gradient_where_the_student_is_sure():
    sure = torch.tensor([[30.0, 0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 30.0, 0.0]], dtype=torch.float64)
    sizes = []
    for clip in (5.0, 1e9):
        logits = sure.clone().requires_grad_()
        adaptive_divergence(logits, teacher, minimum=-1.0, maximum=1.0, clip=clip).backward()
        assert logits.grad.isfinite().all()
        sizes.append(logits.grad.abs().max().item())
    assert sizes[0] <= 5 < sizes[1] or sizes[0] < sizes[1]


def test_the_widest_learns_from_labels_under_alpha():
    torch.testing.assert_close(
        alpha(smoothing=0.1)(STUDENT, LABELS, Context()), label_loss(STUDENT, LABELS, smoothing=0.1)
    )
