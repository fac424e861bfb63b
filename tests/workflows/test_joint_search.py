from types import SimpleNamespace

import torch
from PIL import Image

from anywidth import data
from anywidth.data import DataConfig
from anywidth.workflows.joint_search import held_out_batches


def test_widths_are_measured_on_images_of_all_classes(tmp_path):
    """Folders have one class after the other."""
    for part in ("train", "test"):
        for name in "abcdefgh":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (8, 8)).save(tmp_path / part / name / f"{number}.png")
    config = DataConfig(name="folder", root=str(tmp_path), batch_size=16, held_out=120)
    run = SimpleNamespace(splits=data.load(config), recipe=SimpleNamespace(data=config))
    batches = held_out_batches(run, 100, 48)
    assert [len(set(labels.tolist())) for _, labels in batches] == [8, 8]
    again = held_out_batches(run, 100, 48)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(batches, again, strict=True))
