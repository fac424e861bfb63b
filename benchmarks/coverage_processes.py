"""Every task in a forked process of its own, with limits; what it had reported when it was stopped is kept."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

CPU_SECONDS = 60
WALL_SECONDS = 900
Work = Callable[[str, str, Connection], None]
"""Tool, model, and where to send all that is known so far, again and again."""


def limit_cpu(seconds: float) -> None:
    """From now on."""
    spent = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 1, resource.RLIM_INFINITY))


def run_all(
    work: Work, tasks: Iterator[tuple[str, str]], jobs: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(tool, name, result) of every task as it ends, `jobs` children at a time."""
    context = get_context("fork")
    running: dict[Connection, tuple[str, str, Any, float]] = {}
    last: dict[Connection, dict[str, Any]] = {}
    while True:
        while len(running) < jobs and (task := next(tasks, None)) is not None:
            mine, childs = context.Pipe(duplex=False)
            child = context.Process(target=work, args=(*task, childs))
            child.start()
            childs.close()
            running[mine], last[mine] = (*task, child, time.monotonic()), {}
        if not running:
            return
        ready = wait(list(running), timeout=5)
        for pipe, (tool, name, child, start) in list(running.items()):
            ended = False
            if pipe in ready:
                try:
                    last[pipe] = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    ended = True
            if time.monotonic() - start > WALL_SECONDS:
                child.kill()
                ended = True
            if ended:
                child.join()
                yield tool, name, _ending(last.pop(pipe), child.exitcode)
                del running[pipe]


def _ending(result: dict[str, Any], code: int | None) -> dict[str, Any]:
    if code == 0:
        return result
    why = {-signal.SIGXCPU: f"limit of {CPU_SECONDS} CPU-seconds", -signal.SIGKILL: "limit of time or memory"}
    return {**result, "ok": False, "error": f"stopped: {why.get(code, f'exit {code}')}"}
