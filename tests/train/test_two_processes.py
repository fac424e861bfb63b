"""Two processes (gloo), each with half of every batch, find the weights that one process finds; and so do four."""

from pathlib import Path

import pytest
import torch

import two_processes
from processes import run
from two_processes import CASES, MORE, STOPPED, UNSYNCHRONISED, go_on, train, uneven_images, uneven_net


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("processes")
    run(two_processes.__file__, str(out))
    return out


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compare(folder: Path, case: str, first: str, second: str) -> None:
    """The weights and scores of two trainings of a case are equal."""
    one, two = (torch.load(folder / f"{case}-{which}.pt", weights_only=True) for which in (first, second))
    assert one["net"].keys() == two["net"].keys()
    double = CASES.get(case, {}).get("dtype", torch.float64) is torch.float64
    rtol, atol = (1e-6, 1e-9) if double else (1e-3, 1e-4)
    for name, tensor in one["net"].items():
        torch.testing.assert_close(
            two["net"][name], tensor, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
    for a, b in zip(one["scores"], two["scores"], strict=True):
        assert a[2] == b[2] == 48
        assert a == pytest.approx(b, rel=rtol, abs=atol)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_find_what_one_finds(case, results, one_thread):
    train(case, results)
    compare(results, case, "1", "2")


@pytest.mark.parametrize("case", [*CASES, UNSYNCHRONISED])
def test_processes_end_with_the_same_bits(case, results):
    digests = torch.load(results / f"{case}-2.pt", weights_only=True)["digests"]
    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_four_processes_find_what_two_find(results):
    compare(results, MORE, "2", "4")


def test_shares_of_two_processes_go_on_in_one_and_in_four(results, one_thread, tmp_path):
    train(STOPPED, tmp_path)
    (tmp_path / f"{STOPPED}-1.pt").rename(results / f"{STOPPED}-uninterrupted.pt")
    go_on(results)
    for processes in ("1", "4"):
        compare(results, STOPPED, "uninterrupted", processes)


def test_norms_count_the_elements_of_every_process(results):
    """As one process that normalises over the elements of both, whose images differ in number and size."""
    net, parts = uneven_net(), uneven_images()
    first, norm, last = net.at(0.5)
    maps = [first(x) for x in parts]
    flat = torch.cat([m.transpose(0, 1).flatten(1) for m in maps], 1).unsqueeze(0)
    mean, variance = flat.mean((0, 2), keepdim=True), flat.var((0, 2), correction=0, keepdim=True)
    normal = (flat - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None] + norm.bias[:, None]
    outputs = last(normal.unsqueeze(-1))
    outputs.square().sum().backward()
    state = torch.load(results / "uneven.pt", weights_only=True)
    for name, p in net.named_parameters():
        torch.testing.assert_close(
            state["gradients"][name], p.grad, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )
    running = {name.partition(".")[2]: t for name, t in state["statistics"].items()}
    torch.testing.assert_close(running["running_mean"], 0.1 * mean.detach().flatten(), rtol=1e-9, atol=1e-12)
    unbiased = 0.9 + 0.1 * flat.var((0, 2), correction=1).detach()
    torch.testing.assert_close(running["running_var"], unbiased, rtol=1e-9, atol=1e-12)


def test_without_synchronised_norms_they_differ(results):
    """The comparison can fail: the halves of a batch have other statistics than the whole."""
    state = torch.load(results / "sandwich-2.pt", weights_only=True)["net"]
    other = torch.load(results / "min_max-2.pt", weights_only=True)["net"]
    name = "model.conv.weight"
    with pytest.raises(AssertionError):
        torch.testing.assert_close(state[name], other[name], rtol=1e-6, atol=1e-9)
