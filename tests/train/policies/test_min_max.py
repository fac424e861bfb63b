from anywidth.train import min_max
from drawn_widths import drawn


def test_the_two_ends_only():
    assert set(drawn(min_max(low=0.3))) == {(1.0, 0.3)}
