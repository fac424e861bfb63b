import pytest

from anywidth.data import CocoConfig


@pytest.mark.parametrize(
    "values", [{"batch_size": 0}, {"flip": 1.5}, {"scale": (2.0, 1.0)}, {"workers": -1}, {"min_side": 0}, {"eval_batch_size": 0}]
)  # fmt: skip
def test_a_number_out_of_its_range(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} = "):
        CocoConfig(root="x", **values)
