import pytest
import torch

from anywidth.gating import DynamicNet, Routes
from gates import gates_of


def test_every_row_of_a_gated_batch_is_the_static_network_of_its_route(case):
    dynamic = DynamicNet(case.routes, list(gates_of(case)))
    found = dynamic.routed(case.images)
    assert found.routes.unique().numel() >= 3
    for i, route in enumerate(found.routes.flatten().tolist()):
        static = case.net.extract(route).eval()(case.images[i : i + 1])[0]
        torch.testing.assert_close(found.output[i], static, rtol=1e-10, atol=1e-10)
        alone = dynamic.routed(case.images[i : i + 1])
        assert alone.routes.item() == route
        torch.testing.assert_close(alone.output[0], found.output[i], rtol=1e-10, atol=1e-10)
    again = dynamic.routed(case.images)
    assert torch.equal(again.routes, found.routes)
    assert torch.equal(again.output, found.output)
    backwards = dynamic.routed(case.images.flip(0))
    assert torch.equal(backwards.routes.flip(0), found.routes)
    with pytest.raises(ValueError, match="the batch is empty"):
        dynamic(case.images[:0])


def test_gates_of_other_routes_are_refused(case):
    gates = list(gates_of(case))
    for routes, given, message in (
        (case.routes, gates * 2, "have 1 gates with 4 choices; got 2 gates"),
        (
            Routes(case.net, case.routes.gates, [0, 1, 2]),
            gates,
            r"1 gates with 3 choices; got 1 gates with \[4\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            DynamicNet(routes, given)
