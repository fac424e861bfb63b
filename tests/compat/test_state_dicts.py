import copy

import pytest
import torch
from torch import nn

from anywidth.compat.state_dicts import SAVE, StateDictEntries


class Counts(StateDictEntries, nn.Module):
    """A module that saves counts under a name with a slash."""

    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([float(value)]))
        self.inner = nn.Linear(1, 1)
        self.counts = torch.tensor(value)

    def save_entries_(self, destination, prefix, keep_vars):
        destination[f"{prefix}counts/all"] = self.counts if keep_vars else self.counts.detach()

    def load_entries_(self, state_dict, prefix, unexpected, errors):
        key = f"{prefix}counts/all"
        if key not in state_dict:
            errors.append(f"no {key}")
            return
        self.counts = state_dict[key]
        if key in unexpected:
            unexpected.remove(key)


def test_entries_survive_saving_and_loading_with_a_prefix():
    saved, loaded = nn.Sequential(nn.ReLU(), Counts(3)), nn.Sequential(nn.ReLU(), Counts(5))
    state = saved.state_dict()
    assert list(state) == ["1.weight", "1.counts/all", "1.inner.weight", "1.inner.bias"]
    loaded.load_state_dict(state)
    assert loaded[1].counts == 3
    assert loaded[1].weight.item() == 3


def test_entries_survive_without_a_prefix():
    loaded = Counts(5)
    loaded.load_state_dict(Counts(3).state_dict())
    assert loaded.counts == 3


def test_a_copy_saves_entries_of_its_own():
    original = Counts(3)
    clone = copy.deepcopy(original)
    clone.counts = torch.tensor(4)
    assert (original.state_dict()["counts/all"], clone.state_dict()["counts/all"]) == (3, 4)


def test_a_message_of_an_entry_fails_the_load():
    state = Counts(3).state_dict()
    del state["counts/all"]
    with pytest.raises(RuntimeError, match="no counts/all"):
        Counts(5).load_state_dict(state)


def test_a_name_that_is_not_taken_off_the_list_is_unexpected():
    state = {**Counts(3).state_dict(), "counts/other": torch.ones(1)}
    with pytest.raises(RuntimeError, match="counts/other"):
        Counts(5).load_state_dict(state)


def test_the_live_tensor_is_saved_for_who_asks_for_it():
    counts = Counts(3)
    assert counts.state_dict(keep_vars=True)["counts/all"] is counts.counts


def test_torch_saves_a_module_by_this_method():
    layer = nn.Linear(2, 2)
    destination = {}
    getattr(layer, SAVE)(destination, "a.", False)
    assert list(destination) == ["a.weight", "a.bias"]
