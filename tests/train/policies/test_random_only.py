from anywidth.train import random_only
from drawn_widths import drawn


def test_random_only_lacks_the_narrowest():
    found = drawn(random_only(low=0.25, random=2))
    assert {len(w) for w in found} == {3}
    assert {w[0] for w in found} == {1.0}
    assert all(0.25 not in w for w in found)
