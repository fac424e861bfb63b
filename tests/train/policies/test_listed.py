import pytest

from anywidth.errors import WidthError
from anywidth.train import listed


def test_an_empty_list_is_refused():
    with pytest.raises(WidthError, match="the list is empty"):
        listed(())
