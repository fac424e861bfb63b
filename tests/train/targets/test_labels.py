import pytest
import torch

from anywidth.train.targets import Context, labels
from taught_logits import LABELS, OTHER, STUDENT, TEACHER


def test_every_width_learns_from_the_labels_whatever_ran_before():
    expected = -STUDENT.log_softmax(1)[range(5), LABELS].mean()
    for context in (Context(), Context(seen=[TEACHER, OTHER]), Context(seen=[OTHER], narrowest=True)):
        torch.testing.assert_close(labels()(STUDENT, LABELS, context), expected)


@pytest.mark.parametrize(("over", "of_label", "others"), [("all", 0.85, 0.05), ("others", 0.8, 0.2 / 3)])
def test_smoothing_takes_from_the_label(over, of_label, others):
    weights = torch.full((5, 4), others, dtype=torch.float64)
    weights[range(5), LABELS] = of_label
    expected = -(weights * STUDENT.log_softmax(1)).sum(1).mean()
    target = labels(smoothing=0.2, over=over)
    torch.testing.assert_close(target(STUDENT, LABELS, Context()), expected)


def test_it_needs_nothing_of_a_step():
    target = labels()
    assert not any((target.descending, target.needs_teacher, target.redraws))
