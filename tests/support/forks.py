"""Commands of anywidth in processes of their own, forked from one that has imported everything.

Run as a script it is that process: it reads one order per line and answers each with one line.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from processes import free_port


class Finished(NamedTuple):
    code: int
    out: str
    err: str


class Forks:
    """Starts commands; `server` is the process that they are forked from."""

    def __init__(self, server: subprocess.Popen, directory: Path) -> None:
        self.server, self.directory, self.count = server, directory, 0

    def _ask(self, **order: Any) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *arguments: object, environment: Mapping[str, str] | None = None) -> "Fork":
        """`python -m anywidth` with these arguments."""
        self.count += 1
        out, err = (self.directory / f"{self.count}.{kind}" for kind in ("out", "err"))
        pid = self._ask(
            start=[str(a) for a in arguments],
            environment=dict(environment or {}),
            out=str(out),
            err=str(err),
        )
        return Fork(self, pid, out, err)

    def together(self, *arguments: object, world: int = 2) -> list[Finished]:
        """A command as `world` processes, with the environment that torchrun gives them."""
        common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        running = [
            self.start(*arguments, environment={**common, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(world)
        ]
        return [process.wait() for process in running]


class Fork:
    """A command that runs."""

    def __init__(self, forks: Forks, pid: int, out: Path, err: Path) -> None:
        self.forks, self.pid, self.out, self.err = forks, pid, out, err
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.forks._ask(poll=self.pid)
        return self.code

    def kill(self) -> None:
        """With SIGKILL, unless it has ended."""
        if self.poll() is None:
            self.code = self.forks._ask(kill=self.pid)

    def wait(self) -> Finished:
        if self.code is None:
            self.code = self.forks._ask(wait=self.pid)
        assert self.code is not None
        return Finished(self.code, self.out.read_text(), self.err.read_text())


@contextmanager
def forking(directory: Path, imports: Sequence[str] = ()) -> Iterator[Forks]:
    """Args:
    directory: for what commands write to standard output and error.
    imports: further modules that commands would import.
    """
    server = subprocess.Popen(
        [sys.executable, __file__, *imports],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Forks(server, directory)
    finally:
        server.communicate()


def _run(order: dict[str, Any]) -> None:
    """In the forked process: what `python -m anywidth` does; does not return."""
    from anywidth.cli import app

    os.environ.update(order["environment"])
    for stream, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.close(0)
    sys.argv = ["anywidth", *order["start"]]
    app(prog_name="anywidth")
    sys.exit(0)


def _answer(order: dict[str, Any]) -> int | None:
    if "kill" in order:
        os.kill(order["kill"], 9)
    pid = next(order[key] for key in ("poll", "wait", "kill") if key in order)
    ended, status = os.waitpid(pid, os.WNOHANG if "poll" in order else 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def serve() -> None:
    """Orders are {"start": arguments, "environment", "out", "err"}, answered by a process id, and {"poll" | "wait" | "kill": process id}, answered by an exit code."""
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                _run(order)
            reply = pid
        else:
            reply = _answer(order)
        os.write(1, f"{json.dumps(reply)}\n".encode())


if __name__ == "__main__":
    for module in ("anywidth.cli", "anywidth.workflows", "rich.progress", "sklearn.datasets", *sys.argv[1:]):
        importlib.import_module(module)
    serve()
