import pytest

from anywidth import Elastic
from narrow_views import elastic, width
from oracles import rand


@pytest.fixture
def ready() -> Elastic:
    """With statistics at NARROW, in evaluation mode."""
    net = elastic()
    net.list_width_("small", width(net))
    net.calibrate([rand(8, 3, 4, 4)], widths=["small"])
    return net.eval()
