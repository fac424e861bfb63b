import pytest
from torch import nn

from anywidth.errors import TraceError
from anywidth.views import NormKind
from anywidth.views.classes import view_class
from live_views import mlp, packed

LEARNING = NormKind()
WEIGHT = (("_parameters", "weight"), ("_parameters", "bias"))


def class_of(kind: type, *, norms: NormKind = LEARNING, narrow: tuple[str, ...] = ("out_features",)) -> type:
    return view_class(kind, WEIGHT, narrow, frozenset(), norms, alone=True)


def test_modules_that_hold_the_same_have_one_class():
    linear = class_of(nn.Linear)
    assert class_of(nn.Linear) is linear
    assert class_of(nn.Linear, narrow=()) is not linear
    assert class_of(nn.Linear, norms=NormKind(still=True)) is not linear


def test_a_class_says_that_it_is_the_models():
    linear = class_of(nn.Linear)
    assert issubclass(linear, nn.Linear)
    assert (linear.__name__, linear.__module__, linear.__doc__) == (
        "Linear",
        nn.Linear.__module__,
        nn.Linear.__doc__,
    )
    assert linear.forward is nn.Linear.forward


def test_widths_of_a_network_share_their_classes():
    net = mlp()
    assert type(net.at(0.5)[0]) is type(net.at(0.25)[0]) is type(net.at(0.5)[3])
    assert type(net.at(0.5)[0]) is not type(net.at(0.5)[2])
    assert type(packed().at(0.5)).__name__ == "Packed"


def test_modules_of_a_views_class_are_ordinary_ones():
    sliced = mlp().at(0.5)[:2]
    assert type(sliced) is nn.Sequential
    layer = type(mlp().at(0.5)[0])(3, 2)
    assert type(layer) is nn.Linear


def test_norms_that_stay_still_do_not_go_into_training():
    norms = NormKind(still=True)
    still = view_class(nn.BatchNorm1d, WEIGHT, (), frozenset(), norms, alone=True)
    assert isinstance(vars(still)["training"], property)
    assert "training" not in vars(view_class(nn.BatchNorm1d, WEIGHT, (), frozenset(), LEARNING, alone=True))


def test_a_class_with_slots_is_refused():
    class Slotted(nn.Linear):
        __slots__ = ("extra",)

    with pytest.raises(TraceError, match="views of Slotted cannot be made"):
        class_of(Slotted)
