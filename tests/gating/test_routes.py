import pytest
import torch
import torchvision

from anywidth.elastic import Elastic
from anywidth.errors import TraceError, WidthError
from anywidth.gating import Cut, Routes
from anywidth.graph.partition import run, split


def test_a_network_in_parts_computes_the_same(case):
    module = case.net.extract(2).eval()
    parts = split(module, [Cut(at="stages.1.0.pointwise"), case.routes.gates[0]])
    assert len(parts) == 3
    assert torch.equal(run(parts, case.images), module(case.images))
    names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    assert set().union(*(p.tensors for p in parts)) == names
    assert not parts[0].tensors & parts[2].tensors


@pytest.mark.parametrize(
    ("cuts", "widths", "error", "message"),
    [
        (
            [Cut(at="layer9")],
            (0.5, 1.0),
            TraceError,
            "unknown module to cut at 'layer9'; did you mean 'layer",
        ),
        (
            [Cut(at="layer3"), Cut(at="layer2")],
            (0.5, 1.0),
            TraceError,
            "cuts go from the inputs to the output",
        ),
        ([Cut(at="layer2", feature="layer3")], (0.5, 1.0), TraceError, "a feature lies between"),
        (
            [Cut(at="layer2")],
            (0.5, 1.0),
            WidthError,
            "comes before the gate at 'layer2', so all inputs share it",
        ),
        ([Cut(at="layer2")], (1.0,), WidthError, "at least two widths"),
        ([], (0.5, 1.0), WidthError, "at least two widths at one place"),
        ([Cut(at="layer2")], (1.0, 0.5), WidthError, "the narrowest first"),
        ([Cut(at="avgpool")], ("a", "b"), WidthError, "comes before the gate"),
        (
            [Cut(at="layer2"), Cut(at="layer4")],
            ("a", "b"),
            WidthError,
            "the gate at 'layer4' chooses nothing",
        ),
    ],
)
def test_gates_that_cannot_be(cuts, widths, error, message):
    net = Elastic(torchvision.models.resnet18(num_classes=5), torch.zeros(1, 3, 32, 32))
    net.list_width_("a", net.space.width({"layer3*": 0.5}))
    net.list_width_("b", net.space.full)
    with pytest.raises(error) as caught:
        Routes(net, cuts, widths)
    assert message in str(caught.value)
