import random

import numpy as np
import torch

from anywidth.seeds import generator, seeded


def test_streams_of_a_seed_differ_and_repeat():
    def draw(*stream):
        return torch.rand(4, generator=generator(*stream)).tolist()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({tuple(draw(*stream)) for stream in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]}) == 4


def test_streams_are_no_sums_of_seed_and_number():
    assert len({generator(*numbers).initial_seed() for numbers in ((0, 2), (1, 1), (2, 0))}) == 3


def test_zeros_at_the_end_of_a_stream_do_not_count():
    assert generator(3, 1).initial_seed() == generator(3, 1, 0).initial_seed()
    assert generator(3, 1).initial_seed() != generator(3, 0, 1).initial_seed()


def test_a_seeded_block_repeats_itself_and_leaves_the_generators():
    def draw():
        return torch.rand(2).tolist(), np.random.rand(), random.random()

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with seeded(7):
        first = draw()
    with seeded(7):
        assert draw() == first
    with seeded(8):
        assert draw() != first
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_no_seed_leaves_the_generators_running():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with seeded(None):
        first = torch.rand(1)
    torch.testing.assert_close(torch.cat([first, torch.rand(2)]), expected)
