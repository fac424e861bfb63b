import pytest
from torch import nn

from anywidth import errors
from live_views import X, mlp, same


def test_a_view_used_after_its_module_was_removed():
    for change in (
        lambda m: m.__delitem__(4),
        lambda m: m.append(nn.ReLU()),
        lambda m: m.__setitem__(2, nn.GELU()),
        lambda m: m.insert(1, nn.Identity()),
    ):
        net = mlp().eval()
        view = net.at(0.5)
        change(net.model)
        with pytest.raises(errors.StaleViewError, match=r"Call net.at\(width\) again"):
            view(X)
    net = mlp().eval()
    net.at(0.5)
    net.model[2] = nn.GELU()
    same(net)
