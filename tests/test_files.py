import json
import math

import pytest
import torch
from safetensors.torch import save_file

from anywidth.files import replacing, write_json


def test_replacing_puts_the_new_content_in_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fill_the_disk():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_may_read_an_ordinary_file_may_read_this_one(tmp_path):
    ordinary, tensors = tmp_path / "a", tmp_path / "b.safetensors"
    ordinary.touch()
    with replacing(tensors) as temporary:
        save_file({"x": torch.zeros(1)}, temporary)
    assert tensors.stat().st_mode == ordinary.stat().st_mode


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, 2.5]})
    assert json.loads(path.read_text()) == {"x": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": math.nan})
    assert json.loads(path.read_text()) == {"x": [1, 2.5]}
