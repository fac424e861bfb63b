import pytest

from anywidth import workflows
from anywidth.errors import WidthError


def test_rows_are_those_of_the_file(training, run, rows_in, recorder):
    evaluation = workflows.evaluate(run, ["S", 0.5], reporter=recorder)
    assert evaluation.rows == rows_in(run / "eval.json")
    assert [row["width"] for row in evaluation.rows] == ["S", 0.5]
    assert evaluation.rows[0]["accuracy"] == training[0].rows[0]["accuracy"]
    assert recorder.messages == ["calibrating 0.5"]
    assert [table.title for table in evaluation.tables] == [f"{run}"]


def test_all_listed_widths_by_one_word(training, run, tmp_path, rows_in):
    evaluation = workflows.evaluate(run, "listed", latency=True, out=tmp_path / "listed.json")
    assert evaluation.rows == rows_in(tmp_path / "listed.json")
    assert [row["accuracy"] for row in evaluation.rows] == [row["accuracy"] for row in training[0].rows]
    assert all(row["latency"] > 0 for row in evaluation.rows)


def test_widths_as_text(run):
    assert [row["width"] for row in workflows.evaluate(run, "S,XL").rows] == ["S", "XL"]


def test_options_of_detectors_are_refused(run):
    with pytest.raises(WidthError, match="--metrics and --backend are for detectors"):
        workflows.evaluate(run, "listed", metrics=["bbox"])
    with pytest.raises(WidthError, match="say which widths"):
        workflows.evaluate(run)
