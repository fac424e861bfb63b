import inspect

import pytest

from anywidth import errors

KINDS = [
    error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, Exception) and not issubclass(error, Warning)
]  # fmt: skip


@pytest.mark.parametrize("error", KINDS)
def test_every_error_is_caught_by_the_base(error):
    with pytest.raises(errors.AnywidthError, match="what came"):
        raise error("what came")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.WidthError, ValueError),
        (errors.MeasurementError, ValueError),
        (errors.CheckpointError, ValueError),
        (errors.RecipeError, ValueError),
        (errors.DataError, ValueError),
        (errors.TraceError, RuntimeError),
        (errors.StatisticsError, RuntimeError),
        (errors.StaleViewError, errors.ViewError),
    ],
)
def test_errors_are_of_the_builtin_kind_that_fits(error, builtin):
    with pytest.raises(builtin):
        raise error


def test_a_warning_is_no_error_of_ours():
    assert issubclass(errors.OrdinaryWeightsWarning, UserWarning)
    assert not issubclass(errors.OrdinaryWeightsWarning, errors.AnywidthError)
