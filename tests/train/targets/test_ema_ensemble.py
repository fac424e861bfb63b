import torch

from anywidth.train import ema_ensemble
from anywidth.train.targets import Context, label_loss
from taught_logits import LABELS, OTHER, STUDENT, TEACHER, soft


def test_an_ensemble_of_the_moving_average_teaches_the_narrowest():
    logits = {None: TEACHER, 3: OTHER, "b": STUDENT.flip(0)}
    context = Context(seen=[OTHER], teacher=lambda width=None: logits[width], redrawn=(3, "b"))
    torch.testing.assert_close(ema_ensemble()(STUDENT, LABELS, context), soft(STUDENT, TEACHER))
    context.narrowest = True
    mean = sum(t.softmax(1) for t in logits.values()) / 3
    expected = -(mean * STUDENT.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ema_ensemble()(STUDENT, LABELS, context), expected)
    torch.testing.assert_close(
        ema_ensemble(smoothing=0.2)(STUDENT, LABELS, Context(narrowest=True)),
        label_loss(STUDENT, LABELS, smoothing=0.2),
    )
