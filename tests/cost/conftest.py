import pytest

from anywidth.elastic import Elastic
from enumerated_searches import three_groups


@pytest.fixture
def net() -> Elastic:
    return three_groups()
