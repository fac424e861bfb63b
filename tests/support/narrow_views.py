"""Views of random networks, and the networks built narrow that they must be."""

from torch import nn
from torch.testing import assert_close

from anywidth import Elastic
from oracles import TIGHT, fill_, rand, randomized
from random_nets import RandomNet, group_names, where_kept

IMAGE = (2, 3, 4, 4)
KINDS = ("residual", "batchnorm", "dense", "gate", "depthwise", "plain")  # with gathered and strided axes
WIDE, NARROW, OTHER = (6, 5, 4, 3, 6), (3, 2, 2, 1, 4), (4, 4, 3, 3, 5)


def elastic(**options) -> Elastic:
    return Elastic(randomized(RandomNet(KINDS, WIDE)), rand(*IMAGE), **options)


def width(net: Elastic, sizes=NARROW, kinds=KINDS):
    return net.space.width(dict(zip(group_names(kinds), sizes, strict=True)))


def where(sizes=NARROW):
    return where_kept(KINDS, WIDE, [range(s) for s in sizes])


def compact(net: Elastic, sizes=NARROW) -> nn.Module:
    """What the view must be, from the wide weights as they are now."""
    return fill_(RandomNet(KINDS, sizes), net.model, where(sizes))


def assert_is_compact(net: Elastic, view: nn.Module, sizes=NARROW) -> None:
    view_training = view.training
    other = compact(net, sizes).train(view_training)
    if not view_training:
        for mine, theirs in zip(view.modules(), other.modules(), strict=True):
            if isinstance(mine, nn.BatchNorm2d):
                theirs.running_mean.copy_(mine.running_mean)
                theirs.running_var.copy_(mine.running_var)
    assert_close(view(rand(*IMAGE)), other(rand(*IMAGE)), **TIGHT)
