import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anywidth.cli import app
from anywidth.data import Folder
from forks import Forks, forking

RECIPE = """\
model:
  name: SmallResNet
  kwargs: {channels: [8, 16]}
data: {name: digits, seed: 1, batch_size: 32}
widths:
  listed: [0.25, 0.5, 1.0]
  random: 1
train:
  epochs: 3
  lr: 0.1
  log_every: 40
calibration: {batches: 4}
threads: 1
device: cpu
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def invoke(*arguments: object) -> Outcome:
    """One command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def run_command() -> Callable[..., Outcome]:
    return invoke


@pytest.fixture
def refused() -> Callable[..., str]:
    """Run a command that must end with one line on stderr and exit code 2; returns the line."""

    def run(*arguments: object) -> str:
        code, out, err = invoke(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def images(tmp_path) -> Path:
    """Three classes of colours."""
    root, random = tmp_path / "images", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 120, (16, 16, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def trained(recipe, tmp_path_factory) -> Path:
    """A finished run that tests read and do not change."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    outcome = invoke("train", recipe, "--run", path)
    assert outcome.code == 0, outcome.err
    return path


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Commands in processes of their own, which may be killed."""
    with forking(tmp_path_factory.mktemp("forks"), ["botorch"]) as started:
        yield started


@pytest.fixture(scope="session")
def without_anywidth(tmp_path_factory) -> Callable[[str], str]:
    """Run Python code in a fresh process in which `import anywidth` fails; returns what it prints."""
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "anywidth.py").write_text("raise ImportError('anywidth is not installed here')")

    def run(code: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(blocked)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def image2lmdb(images, tmp_path) -> Path:
    """The images as train.lmdb and val.lmdb in the layout of Image2LMDB."""
    root = tmp_path / "image2lmdb"
    root.mkdir()
    for split in ("train", "val"):
        folder = Folder(images / split)
        pairs = [(Path(p).read_bytes(), y) for p, y in zip(folder.paths, folder.labels.tolist(), strict=True)]
        records = {str(i): pair for i, pair in enumerate(pairs)}
        records |= {"__keys__": [key.encode() for key in records], "__len__": len(pairs)}
        with (
            lmdb.open(str(root / f"{split}.lmdb"), subdir=False, map_size=2**24, lock=False) as env,
            env.begin(write=True) as transaction,
        ):
            for key, value in records.items():
                transaction.put(key.encode(), pickle.dumps(value))
    return root
