"""The front door: which widths it takes, listing, copying, and what it leaves alone."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import anywidth as aw
from anywidth import Elastic, errors
from oracles import TIGHT, rand, randomized
from random_nets import RandomNet

X = rand(4, 3, 4, 4)
KINDS, SIZES = ("residual", "batchnorm", "dense"), (8, 6, 4)


def elastic(**options) -> Elastic:
    return Elastic(randomized(RandomNet(KINDS, SIZES)), X, **options)


# --- which width -------------------------------------------------------------------------------------------------------------


def test_a_width_a_label_or_a_multiplier():
    net = elastic(
        widths={"small": 0.25, 3: 0.375, "odd": aw.Width(names=elastic().space.names, kept=(1, 6, 2))}
    )
    assert net.width(0.5) == net.space.uniform(0.5)
    assert net.width("small") == net.space.uniform(0.25)
    assert net.width(3) == net.space.uniform(0.375)
    assert net.width(net.widths["odd"]) == net.widths["odd"]
    assert net.width(np.float32(0.5)) == net.width(torch.tensor(0.5).item()) == net.space.uniform(0.5)
    assert net.width(1) == net.width(1.0) == net.space.full


def test_a_listed_label_wins_over_a_multiplier():
    net = elastic(widths={0.5: 0.25})
    assert net.width(0.5) == net.space.uniform(0.25)
    assert net.macs(0.5) == net.macs(net.space.uniform(0.25))


@pytest.mark.parametrize("value", [0, 0.0, -1, 1.5, 2])
def test_multipliers_outside_0_1(value):
    net = elastic()
    for verb in (net.width, net.at, net.extract, net.macs, net.params, net.has_statistics):
        with pytest.raises(errors.WidthError, match=r"is outside \(0, 1\]"):
            verb(value)


@pytest.mark.parametrize("value", ["smal", "SMALL"])
def test_an_unknown_label_suggests_one(value):
    with pytest.raises(errors.WidthError, match=rf"unknown width label '{value}'.*net.widths lists them"):
        elastic(widths={"small": 0.5}).at(value)


@pytest.mark.parametrize("value", [[0.5], {"stem": 3}, torch.ones(2)])
def test_what_is_no_width(value):
    with pytest.raises(errors.WidthError, match="width"):
        elastic().at(value)


@pytest.mark.parametrize("value", [None, object(), 1j])
def test_other_objects_are_no_widths(value):
    with pytest.raises(errors.WidthError, match="unknown width label"):
        elastic(widths=[0.5]).at(value)


def test_true_is_no_width():
    with pytest.raises(errors.WidthError, match="True is no width"):
        elastic(widths=[0.5, 1.0]).at(True)


def test_a_width_of_another_network():
    other = Elastic(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(1, 3))
    with pytest.raises(errors.WidthError, match="of another network"):
        elastic().at(other.space.full)


def test_an_equal_width_made_elsewhere_is_taken():
    assert elastic().at(elastic().space.uniform(0.5)).stem.out_channels == 4


# --- listing ------------------------------------------------------------------------------------------------------------------


def test_the_default_is_the_full_width():
    net = elastic()
    assert net.widths == {1.0: net.space.full}
    assert elastic(widths=[]).widths == {}


def test_widths_by_list_or_by_label():
    net = elastic(widths=[0.25, 0.5])
    assert list(net.widths) == [0.25, 0.5]
    named = elastic(widths={"s": 0.25, "m": net.space.uniform(0.5)})
    assert named.widths == {"s": net.width(0.25), "m": net.width(0.5)}
    assert named.list_width_("own", {"stem": 3}) == named.space.width({"stem": 3})
    assert named.width("own")["stem"] == 3


def test_a_bad_listed_width_is_an_error():
    with pytest.raises(errors.WidthError, match="outside"):
        elastic(widths=[0.5, 1.5])


def test_listing_a_width_gives_its_view_the_listed_statistics():
    net = elastic().train()
    old = net.at(0.5)
    net.list_width_("half", 0.5)
    assert net.at(0.5) is not old
    net.at(0.5)(X)
    assert net.has_statistics("half")


def test_policies_of_rounding():
    net = elastic(divisor=4, minimum=3)
    assert net.space.uniform(0.4).kept == (4, 4, 4)
    assert {(g.divisor, g.minimum) for g in net.space.groups} == {(4, 3)}
    assert elastic(minimum=3).space.smallest.kept == (3, 3, 3)


def test_a_space_can_be_given():
    first = elastic()
    second = Elastic(randomized(RandomNet(KINDS, SIZES)), space=first.space)
    assert second.space is first.space
    assert second.train().at(0.5)(X).shape == (4, 2)


# --- the wide network -----------------------------------------------------------------------------------------------------------


def test_the_model_is_not_changed():
    model = randomized(RandomNet(KINDS, SIZES))
    parameters = dict(model.named_parameters())
    text, keys = repr(model), list(model.state_dict())
    net = Elastic(model, X)
    net.at(0.5)
    net.extract(0.25)
    assert net.model is model
    assert (repr(model), list(model.state_dict())) == (text, keys)
    assert all(parameters[n] is p for n, p in model.named_parameters())
    assert_close(net(X), model(X))


def test_forward_is_the_wide_network_and_passes_arguments():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, *, scale=1.0):
            return scale * self.b(self.a(x))

    net = Elastic(Scaled(), torch.randn(1, 3))
    assert_close(net(torch.ones(1, 3), scale=3.0), 3 * net(torch.ones(1, 3)))
    assert_close(net.at(1.0)(torch.ones(1, 3), scale=3.0), 3 * net(torch.ones(1, 3)))


def test_parameters_are_the_models_own():
    net = elastic()
    assert {id(p) for p in net.parameters()} == {id(p) for p in net.model.parameters()}
    assert [n.removeprefix("model.") for n, _ in net.named_parameters()] == [
        n for n, _ in net.model.named_parameters()
    ]


def test_repr_says_groups_norm_and_widths():
    assert "groups=3, norm='shared', widths=[0.25, 'x']" in repr(elastic(widths={0.25: 0.25, "x": 0.5}))


# --- copies ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["shared", "switchable"])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_independent_and_equal(how, norm):
    net = elastic(widths=[0.5, 1.0], norm=norm)
    net.calibrate([X])
    net.at(0.5)
    net.eval()
    net.model.blocks[1].train()
    other = how(net)
    assert [m.training for m in other.model.modules()] == [m.training for m in net.model.modules()]
    assert other.widths == net.widths
    net.eval()
    other.eval()
    expected = net.at(0.5)(X)
    assert_close(other.at(0.5)(X), expected, **TIGHT)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    for t in net.norms.statistics[net.width(0.5)].values():
        t.zero_()
    assert_close(other.at(0.5)(X), expected, **TIGHT)
    other.at(0.5)(X).sum().backward()
    assert other.model.stem.weight.grad is not None
    assert net.model.stem.weight.grad is None


def test_extract_takes_statistics_and_mode():
    net = elastic(widths=[0.5])
    net.calibrate([X])
    net.eval()
    small = net.extract(0.5)
    assert not small.training
    assert_close(small(X), net.at(0.5)(X), **TIGHT)
    assert net.train().extract(0.5).training


def test_views_after_a_cast_are_made_anew():
    net = elastic(widths=[0.5]).train()
    net.at(0.5)
    net.float()
    assert net.at(0.5)(X.float()).dtype == torch.float32
    assert net.at(0.5).stem.weight.data_ptr() == net.model.stem.weight.data_ptr()


def test_training_every_width_together_learns():
    """The sandwich of three widths on a problem that even the narrowest can solve."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 4, 4, generator=generator, dtype=torch.float64)
    y = (x.mean((1, 2, 3)) > 0).long()
    net = elastic(widths=[0.25, 0.5, 1.0]).train()
    step = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        step.zero_grad()
        total = sum((nn.functional.cross_entropy(net.at(w)(x), y) for w in net.widths), torch.zeros(()))
        total.backward()
        step.step()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_label_does_not_hide_a_multiplier_when_widths_are_listed():
    """ShuffleNet's published widths are called 0.5, 1.0 and 2.0 of a network whose widest is 2.0."""
    net = Elastic(
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)),
        torch.randn(1, 3),
        widths={0.5: 0.25, 1.0: 0.5, 2.0: 1.0},
    )
    assert [width.kept for width in net.widths.values()] == [(2,), (4,), (8,)]


def test_inference_mode_hides_nothing_from_the_trace():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with torch.inference_mode():
        assert len(Elastic(model, torch.zeros(1, 3, 8, 8)).space.groups) == 1
        made_inside = nn.Conv2d(3, 8, 3)
    with pytest.raises(errors.TraceError, match="inference_mode"):
        Elastic(made_inside, torch.zeros(1, 3, 8, 8))
