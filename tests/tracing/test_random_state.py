"""Random numbers that were drawn are drawn again; where none were, nobody's are."""

import torch
from torch import nn

from anywidth.tracing.random_state import random_state_kept


def test_what_was_drawn_inside_is_drawn_again():
    model = nn.Linear(2, 2)
    before = torch.get_rng_state()
    with random_state_kept(model, lambda: True):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(torch.rand(3), first)


def test_numbers_of_other_threads_are_not_drawn_twice():
    with random_state_kept(nn.Linear(2, 2), lambda: False):
        first = torch.rand(3)  # by another thread, as this one drew nothing
    assert not torch.equal(torch.rand(3), first)
