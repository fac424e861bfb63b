import pytest
import torch

from anywidth.train import progressive
from drawn_widths import drawn


def test_the_narrow_end_falls_while_the_training_goes_on():
    draw = progressive(low=0.25, until=0.5, random=1)
    ends = [min(draw(torch.Generator(), p)[:2]) for p in (0.0, 0.1, 0.25, 0.5, 0.9)]
    assert ends == pytest.approx([1.0, 0.85, 0.625, 0.25, 0.25])
    assert drawn(draw, 5) == [(1.0,)] * 5
    on_grid = progressive(low=0.25, until=1.0, random=1, grid=0.25)
    assert {w for p in range(11) for w in on_grid(torch.Generator(), p / 10)} <= {0.25, 0.5, 0.75, 1.0}
