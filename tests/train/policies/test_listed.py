import pytest

from anywidth.errors import WidthError
from anywidth.train import listed
from drawn_widths import drawn


def test_an_empty_list_is_refused():
    with pytest.raises(WidthError, match="the list is empty"):
        listed(())


def test_the_same_widths_in_the_same_order_at_every_step():
    widths = ["big", 0.5, "small"]
    draw = listed(widths)
    widths.append(0.1)
    assert set(drawn(draw, 20)) == {("big", 0.5, "small")}
