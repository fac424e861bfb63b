import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from rich.progress import Progress as RichProgress

from anywidth import cli, workflows
from anywidth.cli import console
from anywidth.train import Progress

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


def test_fail_prints_one_line(capsys):
    with pytest.raises(typer.Exit) as caught:
        console.fail(ValueError("two\nlines"))
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err == "error: two lines\n"


def progress(step: int) -> Progress:
    return Progress(
        epoch=(step - 1) // 10, epochs=10, step=step, steps=100, widths=(1.0, 0.5), losses=(0.25, 1.5), lr=0.1
    )


def test_plain_progress_is_a_line_now_and_then_with_the_time_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.training_progress() as report:
        for step in range(1, 101):
            clock[0] += 1.0
            report(progress(step))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[0] == "epoch 1/10, step 5/100, loss 0.250 (widest) 1.500 (worst), 95 s left"
    assert lines[-1] == "epoch 10/10, step 100/100, loss 0.250 (widest) 1.500 (worst), 0 s left"


def test_the_time_left_after_a_resume_counts_the_new_steps_only(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.training_progress() as report:
        for step in range(51, 56):
            clock[0] += 1.0
            report(progress(step))
    assert capsys.readouterr().err.splitlines()[0].endswith(", 45 s left")


def test_a_bar_on_a_terminal(monkeypatch):
    seen = []
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(RichProgress, "update", lambda self, task, **fields: seen.append(fields))
    with console.training_progress() as report:
        report(progress(7))
    assert seen == [{"total": 100, "completed": 7, "epoch": "1/10", "loss": "0.250 (widest) 1.500 (worst)"}]


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


def test_of_several_processes_one_prints(monkeypatch, capsys):
    table = workflows.TextTable(title="net", rows=[{"width": "0.5"}])
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        console.print_tables([table])
        console.print_line("a line")
        console.say("a message")
    out, err = capsys.readouterr()
    assert (out.count("net"), out.count("a line"), err) == (1, 1, "a message\n")
