import json
import shutil

import matplotlib.image
import pytest


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_table_picture_and_json(run, run_command):
    run_command("eval", run, "--widths", "0.4")
    code, out, _ = run_command("report", run)
    assert code == 0
    rows = json.loads((run / "report.json").read_text())["rows"]
    assert [row["width"] for row in rows] == [0.25, 0.4, 0.5, 1.0]
    assert [row["macs"] for row in rows] == sorted(row["macs"] for row in rows)
    for row in rows:
        assert f"{100 * row['accuracy']:.2f} %" in out
    picture = matplotlib.image.imread(run / "report.png")
    assert picture.shape[:2] == (675, 1050)
    assert picture[..., :3].std() > 0.05


def test_a_directory_without_a_run(refused, tmp_path):
    assert "it is not a run directory" in refused("report", tmp_path)


def test_damaged_results(run, refused):
    (run / "results.json").write_text('{"rows": [')
    assert "results.json: is not JSON" in refused("report", run)
    assert not (run / "report.png").exists()


def test_a_report_reads_no_image(run, run_command):
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(
        text.replace("name: digits", "name: cifar10").replace("root: null", "root: gone")
    )
    assert run_command("report", run).code == 0
