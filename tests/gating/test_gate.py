import pytest
import torch

from anywidth.gating.gate import Gate, gate_of, new_gates


def test_logits_are_those_of_the_formula():
    gate = Gate(3, 2)
    feature = torch.randn(4, 3, 2, 2)
    gate.standardise_(torch.randn(9, 3))
    with torch.no_grad():
        gate.offset.copy_(torch.tensor([1.0, -1.0]))
        gate.bias.copy_(torch.tensor([0.5, 2.0]))
    standardised = (feature.mean((2, 3)) - gate.mean) * gate.scale
    torch.testing.assert_close(gate(feature), standardised @ gate.weight.T + torch.tensor([1.5, 1.0]))


def test_features_are_standardised_and_constant_channels_left_out():
    feature = torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
    gate = Gate(2, 2)
    gate.standardise_(feature)
    assert gate.mean.tolist() == [3, 7]
    assert gate.scale.tolist() == [0.5, 0]  # the deviation of 1, 3, 5 is 2


def test_a_narrow_feature_meets_the_first_columns():
    gate = Gate(5, 3)
    narrow = torch.randn(4, 2)
    torch.testing.assert_close(gate(narrow), narrow @ gate.weight[:, :2].T)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1, 1)])
def test_a_published_head_is_a_gate_without_offset(shape):
    head = torch.randn(shape, dtype=torch.float64)
    state = torch.get_rng_state()
    gate = gate_of(head)
    assert torch.equal(torch.get_rng_state(), state)
    feature = torch.randn(2, 6, dtype=torch.float64)
    torch.testing.assert_close(gate(feature), feature @ head.flatten(1).T)
    assert gate.macs == 24


def test_heads_of_other_shapes_are_refused():
    for shape in ((4,), (4, 6, 1), (4, 6, 2, 1)):
        with pytest.raises(ValueError, match=r"expected \[choices, channels\]"):
            gate_of(torch.zeros(shape))


def test_there_is_a_gate_for_each_feature():
    assert [tuple(gate.weight.shape) for gate in new_gates([3, 7], 4)] == [(4, 3), (4, 7)]
