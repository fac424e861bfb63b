"""Two processes (gloo), each with half of every batch, train the detector that one process trains, and find the same boxes."""

import pytest
import torch
from torch.testing import assert_close

import detector_processes
from detector_processes import CASES
from processes import run


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_trains(name, tmp_path):
    run(detector_processes.__file__, str(tmp_path))
    one, two = (torch.load(tmp_path / f"{name}-{world}.pt", weights_only=True) for world in (1, 2))
    assert one["net"].keys() == two["net"].keys()
    for key, t in one["net"].items():
        assert_close(two["net"][key], t, rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")
    for mine, theirs in zip(one["found"], two["found"], strict=True):
        assert len(mine) == len(theirs) > 0
        for a, b in zip(mine, theirs, strict=True):
            assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
            assert_close(a["score"], b["score"], rtol=1e-5, atol=1e-8)
            assert_close(a["bbox"], b["bbox"], rtol=1e-5, atol=1e-5)
