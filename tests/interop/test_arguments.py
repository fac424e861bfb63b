from argparse import Namespace

import pytest
import torch

from anywidth.errors import CheckpointError


class Called:
    """Pickled as arguments that are made by a call, with any state."""

    def __init__(self, state: object = None) -> None:
        self.state = {"lr": 1} if state is None else state

    def __reduce__(self):
        return Namespace, (), self.state


def test_arguments_in_files(tmp_path):
    from anywidth.interop.arguments import NAMES
    from anywidth.interop.checkpoint_files import read_whole

    for args in (Namespace(a=1), Called(), Called({"__class__": 1, "__setstate__": 2})):
        torch.save({"args": args}, tmp_path / "a.pt")
        found = read_whole(tmp_path / "a.pt", NAMES)["args"]
        assert type(found).__name__ == "Arguments"
        assert isinstance(found.values, dict)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_whole(tmp_path / "a.pt")  # not admitted elsewhere
    torch.save({"args": Called("text")}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_whole(tmp_path / "b.pt", NAMES)
