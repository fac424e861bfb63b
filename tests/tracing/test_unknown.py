"""Operations without a rule are reported once, with what they cost and what to do."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.tracing import register_rule
from anywidth.tracing.unknown import shares_of_unknown


@torch.library.custom_op("anywidth_unknown::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.flip(0).clone()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 2, bias=False)  # fmt: skip

    def forward(self, x):
        return self.d(self.c(mystery(self.b(self.a(x)))))


def test_the_report_names_operation_module_share_and_remedy(caplog):
    with caplog.at_level(logging.WARNING, "anywidth"):
        net = aw.Elastic(Net().eval(), torch.randn(2, 3))
    messages = [r.getMessage() for r in caplog.records if "no rule" in r.getMessage()]
    assert len(messages) == 1
    assert "no rule for anywidth_unknown::mystery in <root>" in messages[0]
    assert "register_rule" in messages[0]
    # b.weight and c.weight, 128 of 168 parameters, are frozen along one axis each.
    assert shares_of_unknown(net.model, net.space) == {"anywidth_unknown::mystery in <root>": 128 / 168}
    assert "76 %" in messages[0]


def test_no_report_where_all_is_known(caplog):
    with caplog.at_level(logging.WARNING, "anywidth"):
        aw.Elastic(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.randn(2, 3))
    assert not caplog.records


def test_an_operation_of_torch_without_a_rule_can_have_one():
    class Exponential(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.d = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.d(self.a(x) + torch.linalg.matrix_exp(torch.zeros(1, 1)))

    with pytest.raises(ValueError, match="operations of aten have rules here"):
        register_rule("aten::add")
    register_rule("aten::_test_warn_in_autograd")(lambda walk, func, args, kwargs, out: None)
    assert aw.Elastic(Exponential().eval(), torch.randn(2, 3)).space.groups
