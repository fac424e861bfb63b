import sys
import warnings

import numpy as np
import pytest

from anywidth.errors import AnywidthError
from anywidth.search.surrogate import Surrogate, quiet, require_botorch

RANDOM = np.random.default_rng(0)
X = RANDOM.random((14, 2))
Y = 3 + np.sin(3 * X[:, 0])  # the second coordinate tells nothing


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    return Surrogate(X, Y, ard=True)


def test_the_mean_follows_the_measurements_in_their_own_unit(surrogate):
    elsewhere = np.random.default_rng(1).random((50, 2))
    mean, deviation = surrogate.at(elsewhere)
    assert mean.shape == deviation.shape == (50,)
    assert np.abs(mean - (3 + np.sin(3 * elsewhere[:, 0]))).max() < 0.1


def test_it_is_surer_where_it_was_measured(surrogate):
    _, known = surrogate.at(X)
    _, unknown = surrogate.at(np.array([[3.0, 3.0], [-2.0, 3.0]]))
    assert known.max() < unknown.min()


@pytest.mark.parametrize("prior", ["scaled", "published"])
def test_what_is_believed_is_known_and_moves_no_mean_there(prior):
    surrogate, pending = Surrogate(X, Y, prior=prior), np.array([[2.0, 2.0]])
    mean, deviation = surrogate.at(pending)
    surrogate.believe_(pending)
    believed, surer = surrogate.at(pending)
    np.testing.assert_allclose(believed, mean, atol=1e-4)
    assert surer < deviation


def test_a_length_scale_for_each_dimension_tells_which_one_matters(surrogate):
    first, second = surrogate.model.covar_module.lengthscale.detach().numpy()[0]
    assert second > 2 * first
    assert Surrogate(X, Y).model.covar_module.lengthscale.numel() == 1


def test_warnings_are_silent_inside_alone():
    with quiet():
        warnings.warn("about jitter", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="about jitter"):
        warnings.warn("about jitter", UserWarning, stacklevel=1)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "botorch", None)
    with pytest.raises(AnywidthError, match=r"pip install 'anywidth\[search\]'"):
        require_botorch()
