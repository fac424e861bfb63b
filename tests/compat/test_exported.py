import torch
from torch import nn

from anywidth.compat.exported import is_shape_guard


def test_the_guards_of_an_exported_graph_are_one_of_its_modules():
    graph = torch.export.export(nn.Sequential(nn.Linear(2, 3)), (torch.zeros(1, 2),)).module()
    assert [name for name, m in graph.named_modules() if is_shape_guard(type(m))] == ["_guards_fn"]
    assert not is_shape_guard(nn.Linear)
