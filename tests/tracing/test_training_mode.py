"""Modes are set and put back, also where a module has one mode only or a graph for each."""

import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from anywidth import Elastic
from anywidth.tracing.training_mode import has_one_mode, mode_kept, set_mode_
from oracles import rand, randomized


def exported(model: nn.Module, *example: torch.Tensor) -> nn.Module:
    return torch.export.export(model.eval(), example).module()


def test_an_exported_graph_inside_a_model_stays_in_its_mode():
    graph = exported(nn.Sequential(nn.Linear(4, 4), nn.Dropout()), torch.zeros(1, 4))
    model = nn.Sequential(nn.Dropout(), graph, nn.Dropout())
    assert [has_one_mode(m) for m in model] == [False, True, False]
    before = graph.training
    set_mode_(model, False)
    assert [model.training, model[0].training, graph.training, model[2].training] == [
        False,
        False,
        before,
        False,
    ]
    set_mode_(model, True)
    assert [model.training, model[0].training, graph.training, model[2].training] == [
        True,
        True,
        before,
        True,
    ]


def test_a_train_method_of_the_user_is_called():
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True):
            super().train(mode)
            self[0].eval()
            return self

    model = Frozen(nn.Dropout(), nn.Dropout())
    set_mode_(model, True)
    assert [m.training for m in model.modules()] == [True, False, True]
    model[0].training = True
    with mode_kept(model):
        model.eval()
    assert [m.training for m in model.modules()] == [True, True, True]


def test_a_graph_for_each_mode_is_put_back():
    model = create_feature_extractor(torchvision.models.mobilenet_v2(width_mult=0.1), {"classifier": "out"})
    model.train()
    graph, x = model.graph, torch.zeros(2, 3, 32, 32)
    code, forward = model.code, type(model).forward
    net = Elastic(model, x)
    assert model.graph is graph
    assert model.code == code
    assert type(model).forward is forward
    assert net.extract(0.5).training
    small = net.eval().extract(0.5)
    assert not any(m.training for m in small.modules())
    torch.testing.assert_close(small(x)["out"], small(x)["out"])  # no dropout


def test_an_elastic_exported_graph_narrows_and_evaluates():
    def network(a: int, b: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, a, 3), nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
            nn.Linear(b, 3),
        )  # fmt: skip

    plain, x = randomized(network(8, 6)), rand(2, 3, 8, 8)
    graph = exported(plain, x)
    net = Elastic(graph, x).eval()
    assert [(g.name, g.size) for g in net.space.groups] == [("0", 8), ("3", 6)]
    compact = network(5, 4).double().eval()
    wide = plain.state_dict()
    compact.load_state_dict(
        {
            n: wide[n][tuple(slice(0, s) for s in t.shape)] if t.ndim else wide[n]
            for n, t in compact.state_dict().items()
        }
    )
    width = net.space.width({"0": 5, "3": 4})
    torch.testing.assert_close(net.at(width)(x), compact(x))
    small = net.extract(width)
    torch.testing.assert_close(small(x), compact(x))
    again = exported(small, x)
    torch.testing.assert_close(again(x), compact(x))
    torch.testing.assert_close(Elastic(small, x).at(1.0)(x), compact(x))


class Reshaping(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[2](self[1](self[0](x).view(-1, 12)))


def test_sizes_written_in_an_exported_graph_freeze_what_they_count():
    plain = randomized(Reshaping(nn.Linear(4, 12), nn.Linear(12, 8), nn.Linear(8, 2)))
    net = Elastic(exported(plain, rand(2, 4)), rand(2, 4))
    assert [(g.name, g.size) for g in net.space.groups] == [("1", 8)]
    assert "the size 12 is written in the code (view in <root>)" in {f.reason for f in net.space.frozen}


def test_the_inputs_of_an_exported_graph_inside_a_model_keep_their_size():
    inside = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    model = randomized(nn.Sequential(nn.Linear(4, 6), exported(inside.double(), rand(2, 6)), nn.Linear(5, 2)))
    net = Elastic(model, rand(2, 4))
    assert [g.size for g in net.space.groups] == [8, 5]
    assert any(f.reason.startswith("check of the input's shape '1._guards_fn'") for f in net.space.frozen)
    width = net.space.uniform(0.5)
    torch.testing.assert_close(net.at(width)(rand(2, 4)), net.extract(width)(rand(2, 4)))


def test_all_children_of_an_elastic_network_change_their_mode():
    net = Elastic(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).double(), rand(2, 4))
    net.head = nn.Dropout()
    assert not any(m.training for m in net.eval().modules())
    assert all(m.training for m in net.train().modules())
