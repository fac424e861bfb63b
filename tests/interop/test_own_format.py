import pytest
import torch

import anywidth as aw
from anywidth.errors import RecipeError


def test_a_users_format_is_read_like_ours(tmp_path):
    file = tmp_path / "weights.txt"
    file.write_text("\n".join(map(str, range(8))))
    net = aw.interop.load(file, source="user_code:by_rows", model="any", widths=[0.5, 1.0])
    assert list(net.widths) == [0.5, 1.0]
    assert torch.equal(net.model[1].weight, torch.arange(8.0).reshape(2, 4))
    assert torch.equal(net.at(0.5)[1].weight, torch.tensor([[0.0, 1.0], [4.0, 5.0]]))


def test_a_format_that_cannot_be_imported_is_named(tmp_path):
    with pytest.raises(RecipeError, match="source of checkpoints 'user_code:nothing' cannot be imported"):
        aw.interop.load(tmp_path / "x", source="user_code:nothing", model="any")
