import torch

from anywidth.tracing.opaque_results import OpaqueResults


def test_results_come_from_where_an_opaque_input_does():
    mystery, doubled, constant = (torch.zeros(2) for _ in range(3))
    opaque = OpaqueResults()
    opaque.add([mystery], "mystery in a")
    opaque.enter([constant, mystery])
    assert opaque.operand == "mystery in a"
    opaque.leave([doubled])
    opaque.enter([constant])
    assert opaque.operand is None
    opaque.leave([constant])
    opaque.enter([doubled])
    assert opaque.operand == "mystery in a"
