"""Readers of leaf modules in inference follow every change of the wide network, through any way that PyTorch has to make one."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import anywidth as aw
from anywidth.errors import StaleViewError, StatisticsError
from anywidth.views.leaf_readers import HELD


def network() -> aw.Elastic:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 4),
    )  # fmt: skip
    net = aw.Elastic(model, torch.randn(1, 3, 6, 6), widths=[0.5, 1.0])
    net.train()
    net.calibrate([torch.randn(8, 3, 6, 6)], widths=[0.5, 1.0], batches=1)
    return net.eval()


def check(net: aw.Elastic, widths: tuple[float, ...] = (0.5, 1.0)) -> None:
    """Views are what the network cut out anew gives."""
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        for w in widths:
            view = net.at(w)
            expected = net.extract(w).eval()(x)
            for _ in range(2):  # the second call reads what the first one kept
                torch.testing.assert_close(view(x), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def set_data(net: aw.Elastic) -> None:
    for p in net.model.parameters():
        p.data = torch.randn_like(p)


@torch.no_grad()
def write(net: aw.Elastic) -> None:
    for p in net.model.parameters():
        p.mul_(2).add_(0.1)


def replace(net: aw.Elastic) -> None:
    for m in net.model:
        for name, p in m.named_parameters():
            setattr(m, name, nn.Parameter(torch.randn_like(p)))


def learn(net: aw.Elastic) -> None:
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.at(0.5)(torch.randn(4, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    net.eval()


def double(net: aw.Elastic) -> None:
    net.double().float()


def swap(net: aw.Elastic) -> None:
    other = network()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn_like(p))
    net.load_state_dict(other.state_dict(), assign=True)


def calibrate(net: aw.Elastic) -> None:
    net.train()
    net.calibrate([5 * torch.randn(8, 3, 6, 6) + 1], widths=[0.5], batches=1)
    net.eval()


def eps(net: aw.Elastic) -> None:
    net.model[1].eps = 0.5
    net.model[3].padding_mode = "reflect"
    net.model[3]._reversed_padding_repeated_twice = [1, 1, 1, 1]


CHANGES: list[Callable[[aw.Elastic], None]] = [set_data, write, replace, learn, double, swap, calibrate, eps]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_reaches_kept_readers(change: Callable[[aw.Elastic], None]) -> None:
    net = network()
    check(net)
    assert HELD in net.at(0.5)[3]._view_packs
    before = net.at(0.5)(torch.ones(1, 3, 6, 6)).detach()
    change(net)
    check(net)
    assert not torch.equal(net.at(0.5)(torch.ones(1, 3, 6, 6)), before) or change is double


def test_statistics_that_are_reset_are_missed() -> None:
    net = network()
    check(net)
    net.norms.forget_(net.width(0.5))
    with torch.no_grad(), pytest.raises(StatisticsError):
        net.at(0.5)(torch.randn(1, 3, 6, 6))
    net = network()
    view = net.at(0.5)
    check(net)
    view[1].reset_running_stats()
    with torch.no_grad(), pytest.raises(StatisticsError):
        view(torch.randn(1, 3, 6, 6))


def test_hooks_and_narrow_integers_of_a_view_are_seen() -> None:
    net, seen = network(), []
    check(net)
    view, x = net.at(0.5), torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        view[3].register_forward_hook(lambda m, args, out: seen.append(m))
        view(x)
        assert seen == [view[3]]
        view[3].groups = 2
        with pytest.raises(RuntimeError):
            view(x)
    check(net)


def test_given_tensors_are_used() -> None:
    net = network()
    check(net)
    view, x = net.at(0.5), torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        tensors = {name: p + 1 for name, p in view.named_parameters()}
        small = net.extract(0.5).eval()
        expected = torch.func.functional_call(small, tensors, (x,))
        torch.testing.assert_close(torch.func.functional_call(view, tensors, (x,)), expected)
        wide = {name: p + 1 for name, p in net.model.named_parameters()}
        at_full = torch.func.functional_call(net.model, wide, (x,))
        torch.testing.assert_close(
            torch.func.functional_call(net, {f"model.{n}": t for n, t in wide.items()}, (x,)), at_full
        )
    check(net)


def test_per_sample_weights() -> None:
    net = network()
    check(net)
    x = torch.randn(3, 3, 6, 6)
    scales = torch.tensor([1.0, 2.0, 3.0])
    view = net.at(0.5)
    with torch.no_grad():
        tensors = {n: p.detach().clone() for n, p in view.named_parameters()}

        def run(module: nn.Module, scale: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(module, {n: t * scale for n, t in tensors.items()}, (x,))

        seen = torch.vmap(lambda s: run(view, s))(scales)
        small = net.extract(0.5).eval()
        torch.testing.assert_close(seen, torch.stack([run(small, s) for s in scales]))
    check(net)


def test_nothing_is_kept_of_a_fake_call() -> None:
    net = network()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        out = net.at(0.5)(mode.from_tensor(torch.randn(1, 3, 6, 6)))
        assert out.shape == (1, 4)
    check(net)


def test_readers_go_with_the_copies() -> None:
    net = network()
    check(net)
    view = net.at(0.5)
    held = weakref.ref(view[3]._view_packs[HELD].reader)
    net.drop_views_()
    gc.collect()
    assert HELD not in view[3]._view_packs
    assert held() is None
    check(net)


def test_copies_of_many_widths_stay_within_the_bound() -> None:
    torch.manual_seed(0)
    net = aw.Elastic(nn.Sequential(*[nn.Linear(64, 64) for _ in range(6)]), torch.randn(1, 64)).eval()
    generator, views = torch.Generator().manual_seed(0), []
    kept: dict[int, int] = {}
    with torch.no_grad():
        for _ in range(60):
            view = net.at(net.space.sample(generator))
            view(torch.randn(1, 64))
            views.append(view)
    for view in views:
        for m in view:
            held = m._view_packs.get(HELD)
            if held is not None:
                t = held.reader.weight
                kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
    wide = {p.untyped_storage().data_ptr() for p in net.model.parameters()}
    assert sum(size for pointer, size in kept.items() if pointer not in wide) <= net._packs.limit
    assert len(kept) > len(wide)


def test_threads_share_readers_while_copies_are_dropped() -> None:
    net = network()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = {w: net.extract(w).eval()(x) for w in (0.5, 1.0)}
    errors: list[BaseException] = []

    def run(w: float) -> None:
        try:
            with torch.no_grad():
                for _ in range(150):
                    torch.testing.assert_close(net.at(w)(x), expected[w])
        except BaseException as error:
            errors.append(error)

    def drop() -> None:
        for _ in range(150):
            net.drop_views_()

    threads = [threading.Thread(target=run, args=(w,)) for w in (0.5, 1.0, 0.5)] + [
        threading.Thread(target=drop)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors[0]


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def parametrized(net: aw.Elastic) -> None:
    nn.utils.parametrize.register_parametrization(net.model[3], "weight", Doubled())


def normalised(net: aw.Elastic) -> None:
    nn.utils.parametrizations.weight_norm(net.model[8])


def pruned_by_mask(net: aw.Elastic) -> None:
    torch.nn.utils.prune.l1_unstructured(net.model[0], "weight", 0.5)


def without_scale(net: aw.Elastic) -> None:
    del net.model[5].weight


def without_mean(net: aw.Elastic) -> None:
    del net.model[1].running_mean


@pytest.mark.parametrize("change", [parametrized, normalised, pruned_by_mask, without_scale, without_mean])
@pytest.mark.parametrize("kept", [True, False], ids=["kept reader", "first call"])
@pytest.mark.parametrize("width", [0.5, 1.0])
@torch.no_grad()
def test_a_view_says_which_tensor_of_the_wide_network_is_gone(
    change: Callable[[aw.Elastic], None], kept: bool, width: float
) -> None:
    net, x = network(), torch.randn(2, 3, 6, 6)
    view = net.at(width)
    if kept:
        view(x)
    change(net)
    with pytest.raises(StaleViewError, match="is no longer a tensor of the wide network"):
        view(x)
