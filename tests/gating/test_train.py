import math

import pytest
import torch

from anywidth.errors import AnywidthError, WidthError
from anywidth.gating import GateConfig, costs_of, train_gates


def test_training_a_gate_separates_easy_from_hard(case):
    """Labels are what the narrowest says for half of the inputs, and what the widest says for the others."""
    narrow, wide = (case.net.extract(k).eval()(case.images).argmax(1) for k in (0, 3))
    differ = (narrow != wide).nonzero().flatten()
    assert len(differ) >= 4
    labels = narrow.clone()
    labels[differ[::2]] = wide[differ[::2]]
    loader = [(case.images, labels)]
    before = {k: v.clone() for k, v in case.net.state_dict().items()}
    seen = []
    config = GateConfig(epochs=150, lr=0.5, entropy=0.01)
    net = train_gates(case.routes, lambda epoch: loader, config, report=seen.append)
    routes = net.routed(case.images).routes.flatten()
    right = (net(case.images).argmax(1) == labels).double().mean()
    assert right > max((narrow == labels).double().mean(), (wide == labels).double().mean())
    assert seen[-1].loss < seen[0].loss
    assert seen[-1].step == seen[-1].steps == 150
    assert routes.unique().numel() > 1
    for name, tensor in case.net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    again = train_gates(case.routes, lambda epoch: loader, config)
    assert torch.equal(again.gates[0].weight, net.gates[0].weight)


def test_the_target_of_a_training_is_met_on_held_out_images(case):
    target = 0.5 * (case.routes.macs((0,)) + case.routes.macs((3,)))
    loader = [(case.images, case.labels)]
    for method in ("expected", "gumbel"):
        config = GateConfig(epochs=2, target=target, method=method)
        net = train_gates(case.routes, lambda epoch: loader, config, held_out=loader)
        mean = float(costs_of(case.routes, net.gates[0].macs).of(net.routed(case.images).routes).mean())
        assert mean == pytest.approx(target, rel=0.03)
    with pytest.raises(ValueError, match="give held_out"):
        train_gates(case.routes, lambda epoch: loader, GateConfig(target=target))
    with pytest.raises(WidthError, match="out of reach"):
        train_gates(case.routes, lambda epoch: loader, GateConfig(target=10.0), held_out=loader)


def test_a_loader_that_knows_its_length_is_not_read_to_count_it(case):
    class Loader(list):
        read = 0

        def __iter__(self):
            for item in super().__iter__():
                Loader.read += 1
                yield item

    loader = Loader([(case.images, case.labels)] * 3)
    train_gates(case.routes, lambda epoch: loader, GateConfig(epochs=2))
    assert Loader.read == 1 + 2 * 3  # the first batch says what features look like
    with pytest.raises(ValueError, match="the first batch, which has 1 image"):
        train_gates(case.routes, lambda epoch: [(case.images[:1], case.labels[:1])], GateConfig())


def test_a_loss_that_is_not_finite_is_one_of_our_errors(case):
    loader = [(torch.full_like(case.images, math.nan), case.labels)]
    with pytest.raises(FloatingPointError, match=r"the loss of step 1 is nan; lower gate.lr") as caught:
        train_gates(case.routes, lambda epoch: loader, GateConfig())
    assert isinstance(caught.value, AnywidthError)
