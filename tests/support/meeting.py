"""Two threads that stand for two processes of a search."""

import threading
from typing import Any

from anywidth.search import Together


class Meeting:
    """Where they exchange values."""

    def __init__(self) -> None:
        self._barrier, self._board = threading.Barrier(2), {}

    def of(self, rank: int) -> Together:
        def gathered(value: Any) -> list[Any]:
            self._board[rank] = value
            self._barrier.wait()
            values = [self._board[0], self._board[1]]
            self._barrier.wait()  # nobody writes before both have read
            return values

        return Together(
            rank=rank,
            world=2,
            gathered=gathered,
            from_first=lambda f: gathered(f() if rank == 0 else None)[0],
        )
