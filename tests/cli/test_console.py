import pytest
import typer
from rich.progress import Progress as RichProgress

from anywidth import workflows
from anywidth.cli import console
from anywidth.train import Progress


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


def test_of_several_processes_one_prints(monkeypatch, capsys):
    table = workflows.TextTable(title="net", rows=[{"width": "0.5"}])
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        console.print_tables([table])
        console.print_line("a line")
        console.say("a message")
    out, err = capsys.readouterr()
    assert (out.count("net"), out.count("a line"), err) == (1, 1, "a message\n")
