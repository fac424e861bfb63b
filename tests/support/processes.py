"""Several processes with the environment that torchrun gives them, forked from one that has imported everything."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable


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


def _rank(task: Callable[[], None], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    task()


def fork(task: Callable[[], None], world: int, timeout: float = 120) -> None:
    """Run `task` in `world` processes. For scripts that are small and have no threads.

    Raises:
        RuntimeError: it failed in one of them, or did not end in `timeout` seconds.
    """
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_rank, args=(task, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout
    while any(p.exitcode is None for p in processes) and not any(p.exitcode for p in processes):
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    codes = [p.exitcode for p in processes]
    for process in processes:
        process.kill()
    if any(codes) or None in codes:
        raise RuntimeError(f"exit codes of the processes: {codes}")


def run(*command: str, timeout: float = 300) -> None:
    """Run a script of Python with one thread.

    Raises:
        AssertionError: it failed; the message is what it wrote to standard error.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
