"""Compiled and exported views: one graph per width, never a silent fall-back to eager."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.testing import assert_close

from anywidth import Elastic, errors
from anywidth.views import compiling
from oracles import rand, randomized
from random_nets import RandomNet

IMAGE = (2, 3, 4, 4)
KINDS, SIZES = ("residual", "dense", "gate", "plain"), (16, 12, 12, 8, 12)
SHARES = [round(0.25 + i / 16, 4) for i in range(12)]
TIGHT = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def elastic() -> Elastic:
    return Elastic(randomized(RandomNet(KINDS, SIZES)), rand(*IMAGE))


def test_twelve_widths_are_twelve_graphs_that_are_kept():
    net, plain, count = elastic(), elastic(), CompileCounter()
    views = net.compile(SHARES, backend=count)
    assert list(views) == SHARES
    x = rand(*IMAGE)
    for _ in range(3):
        for w in SHARES:
            assert net.at(w) is views[w]
            assert_close(views[w](x), plain.at(w)(x), **TIGHT)
    assert count.frame_count == len(SHARES)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == len(SHARES)


@pytest.mark.parametrize("isolates", [True, False])
def test_three_networks_of_twelve_widths_are_36_graphs(isolates, monkeypatch):
    if not isolates:  # as with a torch that cannot keep the graphs of calls apart
        monkeypatch.setattr(compiling, "_isolates", lambda: False)
    count, x = CompileCounter(), torch.randn(2, 10)
    nets = [Elastic(nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 4)), x) for _ in range(3)]
    shares = [i / 12 for i in range(1, 13)]
    views = [net.compile(shares, backend=count) for net in nets]
    for _ in range(2):
        for net, made in zip(nets, views, strict=True):
            for w in shares:
                assert_close(made[w](x), net.extract(w)(x))
    assert count.frame_count == counters["stats"]["unique_graphs"] == 36
    assert not counters["graph_break"]


def test_plain_torch_compile_would_fall_back():
    """Why the verb exists; when this fails, `compile_` can go."""
    net, count = elastic(), CompileCounter()
    for w in SHARES:
        torch.compile(net.at(w), backend=count)(rand(*IMAGE))
    assert count.frame_count < len(SHARES)


def test_compiled_views_follow_updates_and_train():
    net, plain, count = elastic(), elastic(), CompileCounter()
    net.compile([0.5, 1.0], backend=count)
    x = rand(*IMAGE)
    steps = [torch.optim.SGD(n.parameters(), lr=0.01) for n in (net, plain)]
    for _ in range(3):
        for n, step in zip((net, plain), steps, strict=True):
            step.zero_grad()
            for w in (0.5, 1.0):
                n.at(w)(x).sum().backward()
            step.step()
        for p, q in zip(net.parameters(), plain.parameters(), strict=True):
            assert_close(p, q, **TIGHT)
    assert count.frame_count == 2
    with torch.no_grad():
        assert_close(net.at(0.5)(x), plain.at(0.5)(x), **TIGHT)


def test_turns_of_training_and_evaluation_do_not_compile_again_and_again():
    """Evaluation packs the weights; that may cost one graph per mode, not one per turn."""
    net, plain, count, x = elastic(), elastic(), CompileCounter(), rand(*IMAGE)
    net.compile([0.5], backend=count)
    for _ in range(12):
        for n in (net, plain):
            n.train().at(0.5)(x).sum().backward()
            with torch.no_grad():
                for p in n.parameters():
                    p.sub_(1e-4 * p.grad)
            n.zero_grad()
        with torch.no_grad():
            assert_close(net.eval().at(0.5)(x), plain.eval().at(0.5)(x), **TIGHT)
    assert count.frame_count <= 2


def test_compiled_by_aot_autograd_gives_the_same_gradients():
    net, plain, x = elastic(), elastic(), rand(*IMAGE)
    net.compile([0.5], backend="aot_eager")
    for n in (net, plain):
        n.at(0.5)(x).square().sum().backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert_close(p.grad, q.grad, **TIGHT)


def test_the_default_is_all_listed_widths():
    net = Elastic(randomized(RandomNet((), (8,))), rand(*IMAGE), widths={"s": 0.25, "l": 1.0})
    views = net.compile(backend="eager")
    assert list(views) == ["s", "l"]


def test_a_compiled_view_follows_a_cast_and_says_when_it_is_stale():
    net = elastic()
    view = net.compile([0.5], backend="eager")[0.5]
    view(rand(*IMAGE))
    net.float()
    assert_close(view(rand(*IMAGE).float()), net.extract(0.5)(rand(*IMAGE).float()))
    del net.model.blocks[3]
    with pytest.raises(errors.StaleViewError, match=r"Call net.at"):
        view(rand(*IMAGE).float())


def test_a_copy_of_a_compiled_view_is_plain():
    net = elastic()
    view = net.compile([0.5], backend="eager")[0.5]
    expected = view(rand(*IMAGE))
    for made in (copy.deepcopy(view), pickle.loads(pickle.dumps(view)), net.extract(0.5)):
        assert "forward" not in vars(made)
        assert_close(made(rand(*IMAGE)), expected, **TIGHT)


class Callable_:  # noqa: N801 - a forward that is no function
    def __call__(self, x):
        return x


def test_a_forward_that_is_no_function_cannot_be_compiled():
    class Odd(nn.Linear):
        forward = Callable_()

    net = Elastic(Odd(3, 3), torch.randn(1, 3))
    with pytest.raises(
        errors.TraceError, match=r"Odd.forward is not a Python function and cannot be compiled per width"
    ):
        net.compile([1.0])


@pytest.mark.parametrize("w", [0.25, 0.5, 1.0])
def test_export_of_a_view(w):
    net = elastic().eval()
    view, x = net.at(w), rand(*IMAGE)
    exported = torch.export.export(view, (x,))
    assert_close(exported.module()(x), view(x), **TIGHT)
    assert {tuple(t.shape) for t in exported.state_dict.values()} == {
        tuple(p.shape) for p in view.parameters()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_an_extracted_torchvision_model_runs_without_this_package(name, tmp_path):
    size = 224 if name.startswith("vit") else 64
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    net = Elastic(model, x, norm="frozen")
    small = net.extract(0.25)
    torch.save(
        {"model": small, "x": x, "y": small(x).detach(), "state": small.state_dict()}, tmp_path / "small.pt"
    )
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    assert (tmp_path / "small.pt").stat().st_size < 0.5 * buffer.tell()
    (tmp_path / "anywidth.py").write_text("raise ImportError('anywidth is not installed here')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        f"d = torch.load({str(tmp_path / 'small.pt')!r}, weights_only=False)\n"
        "torch.testing.assert_close(d['model'](d['x']), d['y'])\n"
        "assert 'anywidth' not in sys.modules\n"
        "try:\n    import anywidth\nexcept ImportError:\n    print('ran')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran\n"
