import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from rich.progress import Progress as RichProgress

from anywidth import cli
from anywidth.cli import console
from anywidth.train import Progress

VERBS = ["train", "eval", "profile", "export", "report"]


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


def test_counts_with_prefixes():
    numbers = (0, 999, 1000, 12345, 1_814_073_344, 2.5e12)
    assert [console.si(number) for number in numbers] == ["0", "999", "1 k", "12.3 k", "1.81 G", "2.5 T"]


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
