import torch

from anywidth.train.targets import Context, label_loss, widest
from taught_logits import LABELS, OTHER, STUDENT, TEACHER, soft


def test_the_first_that_ran_teaches_all_others():
    for seen in ([TEACHER], [TEACHER, OTHER]):
        loss = widest(smoothing=0.2)(STUDENT, LABELS, Context(seen=seen))
        torch.testing.assert_close(loss, soft(STUDENT, TEACHER))


def test_the_widest_learns_from_smoothed_labels():
    loss = widest(smoothing=0.2)(STUDENT, LABELS, Context())
    torch.testing.assert_close(loss, label_loss(STUDENT, LABELS, smoothing=0.2))


def test_the_teacher_gets_no_gradient():
    teacher, student = TEACHER.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    widest()(student, LABELS, Context(seen=[teacher])).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, (STUDENT.softmax(1) - TEACHER.softmax(1)) / 5)
