"""A trunk that runs once for all widths leaves the numbers of running at every width."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import TraceError, WidthError
from anywidth.graph.shared_prefix import Once, Trunk
from anywidth.models import SmallResNet


def new_net(norm: str = "shared") -> Elastic:
    torch.manual_seed(0)
    model = SmallResNet(num_classes=3, channels=(4, 8)).double()
    net = Elastic(model, torch.zeros(1, 1, 8, 8).double(), norm=norm)  # pyright: ignore[reportArgumentType]
    for label, later in (("a", 0.25), ("b", 0.5), ("c", 1.0)):
        net.list_width_(label, net.space.width({"stages.1*": later}))
    net.list_width_("narrow", 0.5)
    return net.train()


class Functional(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p, self.first, self.second, self.last = (
            p,
            nn.Conv2d(1, 4, 3),
            nn.Conv2d(4, 6, 3),
            nn.Conv2d(6, 3, 1),
        )

    def forward(self, x):
        return self.last(self.second(F.dropout(self.first(x), self.p, self.training)))


def test_calibration_runs_a_trunk_once_for_the_same_statistics(monkeypatch):
    batches = [torch.randn(6, 1, 8, 8).double() for _ in range(3)]
    expected, net = new_net(), new_net()
    expected.calibrate(batches, widths=["a", "b", "c", "narrow"])
    seen, real = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *a, **k: seen.append(x.shape[1]) or real(x, *a, **k))
    net.calibrate(batches, widths=["a", "b", "c", "narrow"], trunk="stages.0")
    assert seen.count(1) == 2 * 3  # the narrow width has a trunk of its own
    found = net.norm_state()
    for name, t in expected.norm_state().items():
        torch.testing.assert_close(found[name], t, rtol=1e-12, atol=1e-12)
    assert all(int(t) == 3 for n, t in found.items() if n.endswith("tracked") and "1.0" not in n)


def test_outputs_gradients_and_statistics_are_those_of_whole_passes():
    x = torch.randn(6, 1, 8, 8).double()
    expected, net = new_net(), new_net()
    trunk = Trunk(net.space, "shared", "stages.0")
    once = Once(trunk, x)
    for label in ("a", "narrow", "b", "a", "c"):
        want, got = expected.at(label)(x), once(net.at(label), net.width(label))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        want.square().sum().backward()
        got.square().sum().backward()
    first = dict(net.model.named_parameters())
    assert next(iter(first.values())).grad is None  # not before the trunk's own backward pass
    once.backward_()
    for (name, p), q in zip(first.items(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    found = net.norm_state()
    for name, t in expected.norm_state().items():
        torch.testing.assert_close(found[name], t, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("policy", [nn.ReLU, nn.Hardswish, nn.SiLU])
def test_an_activation_in_place_may_follow_a_trunk(policy):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), policy(inplace=True), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)]  # fmt: skip
    net = Elastic(nn.Sequential(*layers).double(), torch.zeros(1, 1, 8, 8).double()).train()
    expected, x = copy.deepcopy(net), torch.randn(5, 1, 8, 8).double()
    widths = [net.space.width({"3": share}) for share in (1.0, 0.5)]
    once = Once(Trunk(net.space, "shared", "1"), x)
    for width in widths:
        expected.at(width)(x).square().sum().backward()
        once(net.at(width), width).square().sum().backward()
    once.backward_()
    for p, q in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9)
    expected.calibrate([x], widths=widths)
    net.calibrate([x], widths=widths, trunk="1")
    for name, t in expected.norm_state().items():
        torch.testing.assert_close(net.norm_state()[name], t, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_a_trunk():
    with pytest.raises(WidthError, match="every width has its own batch norms"):
        Trunk(new_net("switchable").space, "switchable", "stages.0")
    net = new_net()
    with pytest.raises(TraceError, match=r"stages\.9"):
        net.calibrate([torch.randn(4, 1, 8, 8).double()], widths=["a"], trunk="stages.9")
    for p in (0.5, 0.0):
        small = Elastic(Functional(p), torch.zeros(1, 1, 8, 8))
        Trunk(small.space, "shared", "second").parts(small.eval().at(0.5))  # as in calibration
        if p:
            with pytest.raises(WidthError, match="'dropout' in it draws random numbers at every pass"):
                Trunk(small.space, "shared", "second").parts(small.train().at(0.5))
        else:
            Trunk(small.space, "shared", "second").parts(small.train().at(0.5))
    convnext = Elastic(torchvision.models.convnext_tiny(num_classes=2), torch.zeros(1, 3, 32, 32)).train()
    with pytest.raises(WidthError, match="'stochastic_depth' in it draws random numbers at every pass"):
        Trunk(convnext.space, "shared", "features.3").parts(convnext.at(0.5))
    Trunk(convnext.space, "shared", "features.0").parts(convnext.at(0.5))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.Conv2d(4, 3, 3))
    small = Elastic(model, torch.zeros(1, 1, 8, 8)).train()
    with pytest.raises(WidthError, match="end the trunk before it"):
        Trunk(small.space, "shared", "1").parts(small.at(0.5))
