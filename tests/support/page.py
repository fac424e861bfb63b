"""Runs the examples of docs/in-your-loop.md in two processes, in order and in one scope: page.py."""

import importlib
import re
from pathlib import Path

import torch
import torch.distributed as dist

from processes import fork

PAGE = Path(__file__).parents[2] / "docs" / "in-your-loop.md"
BLOCK = re.compile(r"```(.*?)\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """Language and code of every block of the page."""
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def run_examples() -> None:
    torch.manual_seed(0)
    scope: dict[str, object] = {"__name__": "example"}
    for number, (_, code) in enumerate(blocks(), 1):
        exec(compile(code, f"{PAGE.name}, example {number}", "exec", dont_inherit=True), scope)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    for library in ("accelerate", "lightning.pytorch", "transformers"):
        importlib.import_module(library)  # once, not in every process
    fork(run_examples, world=2)
