import subprocess
import sys
from importlib.metadata import version

import pytest
import typer

from anywidth import cli

VERBS = list(cli.VERBS)


def test_version(run_command):
    assert run_command("--version") == (0, f"anywidth {version('anywidth')}\n", "")


def test_help_names_every_verb(run_command):
    _, out, _ = run_command("--help")
    for verb in VERBS:
        assert f"  {verb} " in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(run_command, verb):
    code, out, _ = run_command(verb, "--help")
    assert code == 0
    assert "Usage: " in out


def test_our_own_mistakes_keep_their_traceback(run_command, monkeypatch, tmp_path):
    monkeypatch.setattr("anywidth.recipe.is_detection", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_command("train", tmp_path / "a.yaml")


def test_exit_code_and_streams_of_the_real_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from anywidth.cli import app; app()", "report", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} has no recipe.yaml")
    assert done.stderr.count("\n") == 1


def test_the_entry_point_is_the_app():
    assert isinstance(cli.app, typer.Typer)


@pytest.mark.parametrize("verb", VERBS)
def test_the_table_of_verbs_says_what_their_docstrings_say(verb):
    assert cli.VERBS[verb][1] == cli.load_verb(verb).__doc__.splitlines()[0]


def in_a_new_process(*arguments: str) -> tuple[int, str, str, bool]:
    """Exit code, stdout, stderr, and whether torch was loaded."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "from anywidth.cli import app\n"
        f"app({list(arguments)!r}, prog_name='anywidth')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    out, _, loaded = done.stdout.rstrip().rpartition("\n")
    return done.returncode, out, done.stderr, loaded == "True"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--help",), 0, "Train one network once, run it at any width."),
        ((), 2, "Commands:"),
        (("--version",), 0, f"anywidth {version('anywidth')}"),
        (("trian",), 2, "No such command 'trian'. Did you mean 'train'?"),
        (("nonsense",), 2, "No such command 'nonsense'."),
    ],
)
def test_what_needs_no_network_does_not_load_torch(arguments, code, text):
    returncode, out, err, loads_torch = in_a_new_process(*arguments)
    assert returncode == code
    assert text in out + err
    assert not loads_torch


def test_the_help_of_a_verb_is_that_of_its_function():
    returncode, out, _, _ = in_a_new_process("prune", "--help")
    assert returncode == 0
    assert "--max-per-layer" in out
    assert "Train what is left with the same recipe and model.pruned=FOLDER." in out
