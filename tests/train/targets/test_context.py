import pytest

from anywidth.train import targets


def test_properties_as_attributes_of_a_function_are_refused():
    with pytest.raises(
        TypeError, match=r"attribute 'teacher'; declare it .*Target\(loss=..., needs_teacher=True\)"
    ):
        targets.make("user_code:marked", smoothing=0.0, over="all", options={})
