import torch

from anywidth.train.targets import Context, label_loss, next_wider
from taught_logits import LABELS, OTHER, STUDENT, TEACHER, soft


def test_the_last_that_ran_teaches():
    loss = next_wider()(STUDENT, LABELS, Context(seen=[TEACHER, OTHER]))
    torch.testing.assert_close(loss, soft(STUDENT, OTHER))
    loss = next_wider()(STUDENT, LABELS, Context(seen=[OTHER, TEACHER]))
    torch.testing.assert_close(loss, soft(STUDENT, TEACHER))


def test_the_widest_learns_from_smoothed_labels():
    loss = next_wider(smoothing=0.2, over="others")(STUDENT, LABELS, Context())
    torch.testing.assert_close(loss, label_loss(STUDENT, LABELS, smoothing=0.2, over="others"))


def test_widths_run_from_the_widest_on():
    target = next_wider()
    assert target.descending
    assert not any((target.needs_teacher, target.redraws))
