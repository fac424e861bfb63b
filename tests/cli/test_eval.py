import json
import shutil

import pytest


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def rows_of(path):
    return {row["width"]: row for row in json.loads(path.read_text())["rows"]}


def test_listed_widths_repeat_the_results_of_training(run, run_command):
    before = (run / "net.safetensors").read_bytes()
    code, out, err = run_command("eval", run, "--widths", "0.25,1.0")
    assert (code, err) == (0, "")
    assert "0.25" in out
    results = rows_of(run / "results.json")
    assert rows_of(run / "eval.json") == {width: results[width] for width in (0.25, 1.0)}
    assert (run / "net.safetensors").read_bytes() == before


def test_an_unlisted_width_is_calibrated_first(run, run_command, tmp_path):
    path = tmp_path / "out.json"
    code, _, err = run_command("eval", run, "--widths", "0.25,0.4,0.5", "--json", path)
    assert code == 0
    assert "calibrating 0.4" in err
    rows = rows_of(path)
    assert rows[0.25]["macs"] < rows[0.4]["macs"] < rows[0.5]["macs"]
    assert not rows[0.4]["listed"]
    assert rows[0.4]["accuracy"] > 0.7


def test_calibration_repeats_itself(run, run_command):
    run_command("eval", run, "--widths", "0.4")
    first = rows_of(run / "eval.json")
    run_command("eval", run, "--widths", "0.7,0.4")
    assert rows_of(run / "eval.json")[0.4] == first[0.4]


@pytest.mark.parametrize(
    ("widths", "message"),
    [("0", "0"), ("1.5", "1.5"), ("0.5,", "expected numbers or labels with commas"), ("large", "large")],
)
def test_a_wrong_width(run, refused, widths, message):
    assert message in refused("eval", run, "--widths", widths)
    assert not (run / "eval.json").exists()


def test_a_directory_without_a_run(refused, tmp_path):
    assert "has no recipe.yaml: it is not a run directory" in refused("eval", tmp_path, "--widths", "0.5")


def test_an_unfinished_run(run, refused):
    (run / "net.safetensors").unlink()
    assert "the training is not finished" in refused("eval", run, "--widths", "0.5")


def test_a_truncated_network(run, refused):
    path = run / "net.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "net.safetensors" in refused("eval", run, "--widths", "0.5")
