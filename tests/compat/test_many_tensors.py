import math

import pytest
import torch

from anywidth.compat.many_tensors import norms_of


@pytest.mark.parametrize("order", [2.0, math.inf])
def test_every_tensor_has_its_own_norm(order):
    tensors = [torch.randn(3, 4), torch.zeros(2), torch.tensor([-5.0])]
    norms = norms_of(tensors, order)
    assert [n.shape for n in norms] == [torch.Size(())] * 3
    torch.testing.assert_close(list(norms), [torch.linalg.vector_norm(t, order) for t in tensors])
