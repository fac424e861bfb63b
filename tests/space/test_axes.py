from hypothesis import given
from hypothesis import strategies as st

from anywidth.space.axes import Run, Size
from small_space import chosen, widths


@given(st.integers(0, 7), st.integers(1, 8), st.integers(1, 4), st.integers(0, 5), st.one_of(widths, chosen))
def test_a_size_counts_the_positions_of_active_units(first, count, each, constant, w):
    run = Run(0, first, count, each)
    units = set(w.units(0)) & set(range(first, first + count))
    assert Size(constant, (run,)).at(w) == constant + each * len(units)
    assert run.positions == count * each
