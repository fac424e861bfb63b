import torch

from anywidth.train import ema
from anywidth.train.targets import Context
from taught_logits import LABELS, OTHER, STUDENT, TEACHER, soft


def test_the_moving_average_teaches():
    context = Context(seen=[OTHER], teacher=lambda: TEACHER)
    torch.testing.assert_close(ema()(STUDENT, LABELS, context), soft(STUDENT, TEACHER))
