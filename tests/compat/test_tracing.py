import torch
from torch import nn

from anywidth.compat.tracing import EXPORT_PACKAGES, DispatchMode, dispatch_mode_count, without_modes


class Noting(DispatchMode):
    """Writes down the operations it sees."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_the_operations_below_autograd():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with Noting() as mode:
        layer(x)
    assert mode.operations == ["aten::t", "aten::addmm"]


def test_operations_inside_are_seen_by_no_mode():
    x = torch.ones(2)
    with Noting() as mode:
        x + 1
        with without_modes():
            x * 2
            assert dispatch_mode_count() == 0
        x - 1
    assert mode.operations == ["aten::add.Tensor", "aten::sub.Tensor"]


def test_modes_are_counted():
    assert dispatch_mode_count() == 0
    with Noting():
        assert dispatch_mode_count() == 1
        with Noting():
            assert dispatch_mode_count() == 2
    assert dispatch_mode_count() == 0


def test_an_export_lists_the_parameters_from_these_packages():
    import sys

    packages = set()

    class Layer(nn.Linear):
        def named_parameters(self, *args, **kwargs):
            frame = sys._getframe(1)
            while frame is not None:
                packages.add(frame.f_globals.get("__name__", ""))
                frame = frame.f_back
            return super().named_parameters(*args, **kwargs)

    torch.export.export(Layer(2, 2), (torch.ones(1, 2),))
    assert any(name.startswith(EXPORT_PACKAGES) for name in packages)
