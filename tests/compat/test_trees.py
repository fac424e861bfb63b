from collections import OrderedDict, namedtuple

import torch
from torch import Tensor

from anywidth.compat.trees import map_only

Pair = namedtuple("Pair", "image size")


def test_leaves_of_the_class_are_mapped_and_others_stay():
    name = object()
    batch = {"x": [torch.ones(1), (torch.ones(2), 3)], "name": name}
    doubled = map_only(Tensor, lambda t: t * 2, batch)
    assert doubled["x"][0].tolist() == [2]
    assert doubled["x"][1][0].tolist() == [2, 2]
    assert doubled["x"][1][1] == 3
    assert doubled["name"] is name


def test_containers_keep_their_class():
    batch = OrderedDict(pair=Pair(torch.ones(1), 5))
    doubled = map_only(Tensor, lambda t: t * 2, batch)
    assert type(doubled) is OrderedDict
    assert type(doubled["pair"]) is Pair
    assert doubled["pair"].image.item() == 2


def test_a_tensor_alone_is_a_leaf():
    assert map_only(Tensor, lambda t: t + 1, torch.zeros(1)).item() == 1
