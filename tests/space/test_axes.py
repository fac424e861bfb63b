from hypothesis import given
from hypothesis import strategies as st

from anywidth.space.axes import Run, Size, size_of, spelled_out
from small_space import SPACE, chosen, widths


@given(st.integers(0, 7), st.integers(1, 8), st.integers(1, 4), st.integers(0, 5), st.one_of(widths, chosen))
def test_a_size_counts_the_positions_of_active_units(first, count, each, constant, w):
    run = Run(0, first, count, each)
    units = set(w.units(0)) & set(range(first, first + count))
    assert Size(constant, (run,)).at(w) == constant + each * len(units)
    assert run.positions == count * each


def test_an_axis_is_spelled_out_position_by_position():
    groups, units = spelled_out((Run(0, 0, 2, 2), Run(-1, 0, 1, 3), Run(1, 4, 2, 1)))
    assert groups.tolist() == [0, 0, 0, 0, -1, -1, -1, 1, 1]
    assert units.tolist() == [0, 0, 1, 1, 0, 0, 0, 4, 5]


def test_sizes_are_read_from_plain_data():
    size = size_of({"constant": 3, "runs": [[0, 4, 4, 2]]})
    assert size == Size(3, (Run(0, 4, 4, 2),))
    assert size.at(SPACE.width({"stem": 5})) == 3 + 2 * 1  # unit 4 is the only one kept of 4 to 7
    assert size.at(SPACE.width({"stem": [0, 6, 7]})) == 3 + 2 * 2
