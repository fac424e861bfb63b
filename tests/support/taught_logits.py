"""Logits of a teacher, of a student and of another width."""

import torch

GENERATOR = torch.Generator().manual_seed(0)
TEACHER, STUDENT, OTHER = torch.randn(3, 5, 4, dtype=torch.float64, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 3, 0])


def soft(student, teacher):
    return -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
