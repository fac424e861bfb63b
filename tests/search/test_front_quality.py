import pytest

from anywidth.errors import WidthError
from anywidth.search import area_under, hypervolume


def test_hypervolume_and_area_by_hand():
    assert hypervolume([0.2, 0.5], [0.5, 0.25], reference=(1.0, 1.0)) == pytest.approx(0.8 * 0.5 + 0.5 * 0.25)
    assert hypervolume([0.5, 0.2, 0.6, 2], [0.25, 0.5, 0.3, 0], reference=(1.0, 1.0)) == pytest.approx(0.525)
    assert area_under([0, 1, 2], [1, 0, 1]) == pytest.approx(0.5)
    assert area_under([2, 0, 1], [1, 1, 0], between=(0.5, 1.0)) == pytest.approx(0.25)
    with pytest.raises(WidthError, match="needs two costs"):
        area_under([1], [1])
    with pytest.raises(WidthError, match=r"within 0\.\.2"):
        area_under([0, 2], [1, 1], between=(1, 3))
