"""Two processes (gloo), each with half of every batch, find the weights that one process finds."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from two_processes import CASES, train

SCRIPT = Path(__file__).with_name("two_processes.py")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(command: list[str], world: int = 2, timeout: float = 300) -> list[subprocess.CompletedProcess]:
    """Run a command as `world` processes, as torchrun does."""
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(world)
    ]
    done = []
    for process in running:
        out, err = process.communicate(timeout=timeout)
        done.append(subprocess.CompletedProcess(command, process.returncode, out, err))
    return done


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("processes")
    for done in together([str(SCRIPT), str(out)]):
        assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_find_what_one_finds(case, results):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    train(case, results)
    torch.set_num_threads(before)
    one, two = (torch.load(results / f"{case}-{world}.pt", weights_only=True) for world in (1, 2))
    assert one["net"].keys() == two["net"].keys()
    double = CASES[case].get("dtype", torch.float64) is torch.float64
    rtol, atol = (1e-6, 1e-9) if double else (1e-3, 1e-4)
    for name, tensor in one["net"].items():
        torch.testing.assert_close(
            two["net"][name], tensor, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
    for a, b in zip(one["scores"], two["scores"], strict=True):
        assert a[2] == b[2] == 48
        assert a == pytest.approx(b, rel=rtol, abs=atol)


def test_without_synchronised_norms_they_differ(results):
    """The comparison can fail: the halves of a batch have other statistics than the whole."""
    state = torch.load(results / "sandwich-2.pt", weights_only=True)["net"]
    other = torch.load(results / "min_max-2.pt", weights_only=True)["net"]
    name = "model.conv.weight"
    with pytest.raises(AssertionError):
        torch.testing.assert_close(state[name], other[name], rtol=1e-6, atol=1e-9)
