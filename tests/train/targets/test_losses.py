import torch

from anywidth.train.targets import distillation_loss, label_loss, soft_targets

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.3, 0.1, 2.0], [1.0, 1.0, -1.0]], dtype=torch.float64)
LABELS = torch.tensor([2, 0])


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.exp().sum(1, keepdim=True).log()


def test_distillation_is_the_soft_cross_entropy_of_the_paper():
    targets = soft_targets(TEACHER)
    expected = -(log_probabilities(TEACHER).exp() * log_probabilities(LOGITS)).sum(1).mean()
    torch.testing.assert_close(distillation_loss(LOGITS, targets), expected)


def test_gradient_is_the_difference_of_the_softmaxes():
    logits = LOGITS.clone().requires_grad_()
    distillation_loss(logits, soft_targets(TEACHER)).backward()
    expected = (log_probabilities(LOGITS).exp() - log_probabilities(TEACHER).exp()) / len(LOGITS)
    torch.testing.assert_close(logits.grad, expected)


def test_the_teacher_gets_no_gradient():
    teacher = TEACHER.clone().requires_grad_()
    assert not soft_targets(teacher).requires_grad


def test_label_smoothing_spreads_over_all_classes():
    smoothing, classes = 0.3, 3
    weights = torch.full((2, classes), smoothing / classes, dtype=torch.float64)
    weights[torch.arange(2), LABELS] += 1 - smoothing
    expected = -(weights * log_probabilities(LOGITS)).sum(1).mean()
    torch.testing.assert_close(label_loss(LOGITS, LABELS, smoothing=smoothing), expected)
