import pytest
import torch

from anywidth import errors
from narrow_views import assert_is_compact, elastic


def test_at_returns_the_same_object_until_something_changes():
    net = elastic()
    first = net.at(0.5)
    assert net.at(0.5) is first
    assert net.at(net.space.uniform(0.5)) is first
    assert net.at(0.25) is not first
    net.drop_views_()
    assert net.at(0.5) is not first


def test_old_views_are_let_go():
    net = elastic()
    first = net.at(0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        net.at(net.space.sample(generator))
    assert net.at(0.5) is not first
    assert_is_compact(net, first, [g.size // 2 + g.size % 2 for g in net.space.groups])  # it still works


def test_a_width_that_is_no_prefix_has_no_view():
    net = elastic()
    with pytest.raises(
        errors.WidthError, match=r"needs nested widths.*but 'stem' keeps chosen units. Use net.extract"
    ):
        net.at(net.space.width({"stem": [1, 3]}))
