import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.interop import dsnet
from dsnet_files import assert_computes, contents, load, save, stored
from dsnet_reference import HEAD


@pytest.mark.parametrize("kind", ["prefixed", "bare", "without head", "before 2020", "safetensors"])
def test_kinds_of_files(kind, tmp_path):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth.tar")
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(stored(), path)
    elif kind == "prefixed":
        save(path, prefix="module.", state_dict_ema={"module." + n: t for n, t in stored().items()})
    elif kind == "bare":
        torch.save(stored(), path)
    elif kind == "before 2020":
        torch.save(contents(stored()), path, _use_new_zipfile_serialization=False)
    else:
        save(path, {n: t for n, t in stored().items() if n != HEAD})
    assert_computes(load(path), stored(), (3,))


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", ["value", "in the arguments", "deep in the arguments"])
def test_files_that_would_run_code_are_refused(place, tmp_path):
    path, marker = tmp_path / "a.pth.tar", tmp_path / "ran"
    evil = Evil(marker)
    more = {
        "value": {"metric": evil},
        "in the arguments": {"args": Namespace(lr=evil)},
        "deep in the arguments": {"args": Namespace(a={"b": [evil]})},
    }[place]
    save(path, **more)
    for read in (load, dsnet.head):
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            read(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # it would have run
