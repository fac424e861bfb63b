import torch

from anywidth.seeds import generator


def test_streams_of_a_seed_differ_and_repeat():
    def draw(*stream):
        return torch.rand(4, generator=generator(*stream)).tolist()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({tuple(draw(*stream)) for stream in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]}) == 4
