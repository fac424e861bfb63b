import json
import shutil

import pytest

from anywidth.models import SmallResNet
from anywidth.store import load


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_more_widths_are_listed_and_saved(run, run_command):
    code, _, err = run_command("calibrate", run, "--widths", "0.3,0.7", "--batches", "3")
    assert code == 0
    assert "statistics of 0.3, 0.7" in err
    net = load(run / "net.safetensors", SmallResNet(channels=(8, 16)))
    assert list(net.widths) == [0.25, 0.5, 1.0, 0.3, 0.7]
    assert net.has_statistics(0.7)
    assert int(net.at(0.3).bn.num_batches_tracked) == 3
    code, _, err = run_command("eval", run, "--widths", "listed")
    assert (code, err) == (0, "")
    assert [row["width"] for row in json.loads((run / "eval.json").read_text())["rows"]] == [
        0.25,
        0.5,
        1.0,
        0.3,
        0.7,
    ]


def test_calibrating_again_changes_nothing(run, run_command):
    from safetensors.torch import load_file

    before = load_file(run / "net.norms.safetensors")
    assert run_command("calibrate", run, "--widths", "listed").code == 0
    after = load_file(run / "net.norms.safetensors")
    assert before.keys() == after.keys()
    assert all((before[k] == after[k]).all() for k in before)


def test_a_wrong_width(run, refused):
    assert "large" in refused("calibrate", run, "--widths", "large")
