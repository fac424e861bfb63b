"""A view is the wide network read at the time of use: whatever is done to the one or the other, by whatever entry."""

import copy
import pickle
import threading

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.testing import assert_close

from anywidth import Elastic, errors
from effort import SEQUENCES, THREADS_SECONDS
from live_views import X, mlp, packed, same
from oracles import TIGHT, rand, randomized
from random_nets import RandomNet


def test_masks_of_the_wide_network_make_it_another_network():
    net = mlp().eval()
    view = net.at(0.5)
    prune.l1_unstructured(net.model[0], "weight", 0.5)
    with pytest.raises(errors.StaleViewError, match=r"'0.weight' is no longer a tensor"):
        view(X)
    with pytest.raises(errors.TraceError, match="is not of this Sequential"):
        net.extract(0.5)
    masked, plain = Elastic(net.model, X).eval(), mlp().model.eval()
    prune.remove(prune.l1_unstructured(plain[0], "weight", 0.5), "weight")
    assert_close(masked.at(0.5)(X), Elastic(plain, X).at(0.5)(X), **TIGHT)


def test_the_networks_state_goes_to_another_that_lists_other_widths():
    model = lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))  # noqa: E731
    x = rand(4, 3, 4, 4)
    net = Elastic(randomized(model()), x, widths=[0.5, 1.0])
    net.list_width_("searched", {"0": 3})
    net.calibrate([x])
    state = net.state_dict()
    assert "norms.statistics/searched/1.running_mean" in state
    assert "norms.statistics/0.5/1.running_var" in state
    assert all(isinstance(t, Tensor) for t in state.values())
    other = Elastic(randomized(model(), seed=4), x, widths=[1.0])
    other.load_state_dict(state)
    assert other.widths == {1.0: net.width(1.0), 0.5: net.width(0.5), "searched": net.width("searched")}
    for w in ("searched", 0.5, 1.0):
        assert_close(other.eval().at(w)(x), net.eval().at(w)(x), **TIGHT)
    again = Elastic(randomized(model(), seed=5), x, widths=[0.75])
    again.load_state_dict(state)
    assert list(again.widths) == [0.75, "searched", 0.5, 1.0] or set(again.widths) == {
        0.75,
        0.5,
        1.0,
        "searched",
    }


def test_the_state_of_another_network_is_an_error():
    with pytest.raises(errors.CheckpointError, match="not the widths of this network"):
        mlp().load_state_dict(packed().state_dict())


@pytest.mark.parametrize("labels", [(1, "1.0"), (1.0, "1"), ("0.5", 0.5), ("0.50", "0.5")])
def test_labels_that_look_alike_are_refused(labels):
    with pytest.raises(errors.WidthError, match=r"cannot be told from"):
        mlp(widths=dict.fromkeys(labels, 0.5))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.r, self.o = (
                nn.Linear(6, 8),
                kind(8, 8, num_layers=2, batch_first=True),
                nn.Linear(8, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.r(self.a(x))[0])

    x = rand(2, 3, 6)
    net = Elastic(randomized(Net()), x)
    assert net.space.groups
    view = net.at(0.5)
    view(x)
    with torch.no_grad():
        for p in net.model.parameters():
            p.mul_(1.5)
    same(net, x)
    net.model.load_state_dict(randomized(Net(), seed=4).state_dict(), assign=True)
    assert_close(view(x), net.extract(0.5)(x), **TIGHT)
    view(x).sum().backward()
    assert net.model.r.weight_ih_l0.grad is not None or net.model.a.weight.grad is not None


def normed(**options) -> Elastic:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 2, 1),
    )
    return Elastic(randomized(model), rand(2, 3, 4, 4), **options)


def test_statistics_are_asked_for_by_every_entry():
    net, x = normed(widths=[0.5]).eval(), rand(2, 3, 4, 4)
    view = net.at(0.5)
    for call in (
        lambda: view(x),
        lambda: view[1](view[0](x)),
        lambda: view[:2](x),
        lambda: nn.Sequential.forward(view, x),
        lambda: view[1].running_mean,
        lambda: torch.compile(view, backend="eager")(x),
        lambda: net.compile([0.5], backend="eager")[0.5](x),
    ):
        with pytest.raises(errors.StatisticsError, match="calibrate"):
            call()
    view[0](x)  # before any norm
    net.calibrate([x])
    view(x)


def test_a_stem_that_no_narrow_group_reaches_uses_the_wide_networks_statistics():
    net, x = normed(freeze=["0"]), rand(8, 3, 4, 4)
    net.train()
    net.model[:2].eval()
    net.model[:2].requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        w = net.space.sample(generator)
        view = net.at(w)
        view(x).sum().backward()
        assert_close(view[:2](x), net.model[:2](x), **TIGHT)
    net.eval()
    with pytest.raises(errors.StatisticsError, match="'4' and 0 more"):
        net.at(0.3)(x)
    net.calibrate([x], widths=[0.3])
    assert_close(net.at(0.3)(x), net.extract(0.3)(x), **TIGHT)


def test_full_channels_behind_narrow_ones_have_statistics_of_their_own():
    net, x = normed(freeze=["3"], widths=[0.5]).eval(), rand(8, 3, 4, 4)
    assert net.at(0.5)[4].num_features == 6
    with pytest.raises(errors.StatisticsError):
        net.at(0.5)(x)
    net.calibrate([x])
    assert not torch.allclose(net.at(0.5)[4].running_mean, net.model[4].running_mean)


def test_frozen_norms_stay_frozen_by_every_entry():
    net, x = normed(norm="frozen").train(), rand(8, 3, 4, 4)
    view, before = net.at(0.5), {n: b.clone() for n, b in net.model.named_buffers()}
    view[1](view[0](x))
    nn.Sequential.forward(view, x)
    net.model.train()
    view(x)
    assert not view[1].training
    assert all(torch.equal(b, before[n]) for n, b in net.model.named_buffers())


@pytest.mark.slow
def test_threads():
    net, x = normed(widths=[0.25, 0.5, 1.0]), rand(2, 3, 4, 4)
    net.calibrate([rand(8, 3, 4, 4)])
    net.eval()
    expected = {w: net.extract(w)(x) for w in (0.25, 0.5, 1.0)}
    errors_seen, stop = [], threading.Event()

    def run(work):
        try:
            while not stop.is_set():
                work()
        except Exception as error:
            errors_seen.append(error)
            stop.set()

    def infer():
        for w, y in expected.items():
            with torch.no_grad():
                assert_close(net.at(w)(x), y, **TIGHT)

    def build():
        other = normed()
        assert [g.name for g in other.space.groups] == [g.name for g in net.space.groups]
        assert other.space.axes == net.space.axes

    jobs = [infer, infer, net.drop_views_, build, build, lambda: net.at(net.space.uniform(0.5))]
    threads = [threading.Thread(target=run, args=(work,)) for work in jobs]
    for t in threads:
        t.start()
    stop.wait(THREADS_SECONDS)
    stop.set()
    for t in threads:
        t.join()
    assert not errors_seen, errors_seen[0]


KINDS, SIZES = ("residual", "dense", "gate", "plain"), (6, 4, 5, 3, 6)
IMAGE = rand(2, 3, 4, 4)


class Anything(RuleBasedStateMachine):
    """Users' actions on the wide network and on views, in any order."""

    def __init__(self):
        super().__init__()
        self.net = Elastic(randomized(RandomNet(KINDS, SIZES)), IMAGE)
        self.views, self.seed, self.handles = [], 0, []

    def parts(self):
        return [m for m in self.net.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    @rule(i=st.integers(0, 20), scale=st.floats(0.5, 2))
    def write(self, i, scale):
        with torch.no_grad():
            list(self.net.model.parameters())[i % 12].mul_(scale)

    @rule(i=st.integers(0, 20), scale=st.floats(0.5, 2))
    def hook(self, i, scale):
        part = self.parts()[i % len(self.parts())]
        self.handles.append(part.register_forward_hook(lambda m, a, o: o * scale))

    @precondition(lambda self: self.handles)
    @rule()
    def unhook(self):
        self.handles.pop().remove()

    @rule(i=st.integers(0, 20), learns=st.booleans())
    def freeze(self, i, learns):
        self.parts()[i % len(self.parts())].requires_grad_(learns)

    @rule(assign=st.booleans())
    def load(self, assign):
        self.seed += 1
        state = randomized(RandomNet(KINDS, SIZES), seed=self.seed).state_dict()
        self.net.model.load_state_dict(state, assign=assign)

    @rule(whole=st.booleans())
    def cast_there_and_back(self, whole):
        target = self.net if whole else self.net.model
        target.half()
        target.double()

    @rule(fused=st.booleans(), w=st.sampled_from([0.3, 0.5, 1.0]))
    def optimise(self, fused, w):
        out = self.net.at(w)(IMAGE)
        if out.requires_grad:
            optimizer = torch.optim.SGD(self.net.parameters(), 1e-3, fused=fused)
            out.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    @rule(i=st.integers(0, 20))
    def replace_parameter(self, i):
        part = self.parts()[i % len(self.parts())]
        part.weight = nn.Parameter(torch.randn_like(part.weight) * 0.3)

    @rule(i=st.integers(0, 20))
    def attribute(self, i):
        part = self.parts()[i % len(self.parts())]
        part.note = i

    @rule(w=st.sampled_from([0.3, 0.5, 1.0]), mode=st.booleans())
    def mode_of_a_view(self, w, mode):
        self.net.at(w).train(mode)

    @rule(w=st.sampled_from([0.3, 0.5]), i=st.integers(0, 20))
    def hook_on_a_view(self, w, i):
        view = self.net.at(w)
        part = [m for m in view.modules() if isinstance(m, nn.Conv2d)][i % 5]
        part.register_forward_hook(lambda m, a, o: o * 0)
        self.views.append(view)

    @rule(w=st.sampled_from([0.3, 0.5]))
    def write_to_a_view(self, w):
        with torch.no_grad():
            for p in self.net.at(w).parameters():
                p.mul_(1.01)

    @rule(w=st.sampled_from([0.3, 0.5]))
    def load_into_a_view(self, w):
        view = self.net.at(w)
        view.load_state_dict({n: t * 0.9 for n, t in view.state_dict().items()})

    @rule(how=st.sampled_from([copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))]))
    def copy_the_network(self, how):
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.net = how(self.net)

    @rule(w=st.sampled_from([0.3, 0.5]))
    def copy_a_view(self, w):
        made = copy.deepcopy(self.net.at(w))
        assert_close(made(IMAGE), self.net.at(w)(IMAGE), **TIGHT)
        with torch.no_grad():
            for p in made.parameters():
                p.zero_()

    @invariant()
    def views_are_copies_made_now(self):
        for w in (0.3, 0.5, 1.0):
            view, small = self.net.at(w), self.net.extract(w)
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    expected = small(IMAGE)
                    assert_close(view(IMAGE), expected, **TIGHT)
                    assert_close(view.stem(IMAGE), small.stem(IMAGE), **TIGHT)
                    assert_close(RandomNet.forward(view, IMAGE), expected, **TIGHT)


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=SEQUENCES)
