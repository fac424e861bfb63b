"""The examples of docs/in-your-loop.md run in two processes; those for one process also run in tests/test_docs.py."""

from pathlib import Path

import pytest

import page
from page import PAGE, blocks
from processes import run


def test_examples_run_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page.__file__)
    assert (tmp_path / "vit.safetensors").exists()  # the last example for several processes wrote it


def test_every_block_is_an_example() -> None:
    fences = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
    assert {language for language, _ in blocks()} == {"python", "python torchrun"}
    assert len(fences) == 2 * len(blocks())


def test_a_failing_process_is_noticed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys, time\nsys.path.insert(0, {str(Path(page.__file__).parent)!r})\nfrom processes import fork\n"
        "fork(lambda: time.sleep(60) if os.environ['RANK'] == '0' else 1 / 0, world=2)\n"
    )
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(str(script))
