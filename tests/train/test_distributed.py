import pytest
import torch
from torch import distributed as dist

from anywidth.train import distributed


@pytest.fixture
def group(tmp_path):
    """A group of this process alone, behind which another one is pretended to be."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_exchanges_nothing():
    value = torch.tensor([1.0, 2.0])
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.mean_over_processes(value) is value
    assert distributed.total(value) is value
    assert distributed.gathered("a") == ["a"]
    assert distributed.from_first(lambda: 3) == 3
    distributed.broadcast_([value])
    distributed.barrier()
    assert value.tolist() == [1, 2]


def test_sums_of_several_processes_leave_the_callers_tensor(group, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda t: t.mul_(3))  # the other one has twice as much
    value = torch.tensor([1.0, 2.0])
    assert distributed.total(value).tolist() == [3, 6]
    assert distributed.mean_over_processes(value).tolist() == [1.5, 3]
    assert value.tolist() == [1, 2]


def test_a_failure_of_the_first_process_is_raised_after_the_others_know(group, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    sent = []
    monkeypatch.setattr(dist, "broadcast_object_list", lambda outcome, source: sent.append(outcome[0]))
    assert distributed.from_first(lambda: "made") == "made"
    with pytest.raises(ZeroDivisionError):
        distributed.from_first(lambda: 1 / 0)
    (value, nothing), (no_value, error) = sent
    assert (value, nothing, no_value) == ("made", None, None)
    assert isinstance(error, ZeroDivisionError)


def test_the_gpu_of_a_process_is_that_of_its_local_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert distributed.local_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert distributed.local_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    assert distributed.local_device(torch.device("cuda")) == torch.device("cuda")


def test_processes_are_joined_inside_and_left_after_it(tmp_path, monkeypatch):
    with distributed.processes(torch.device("cpu")):
        assert not dist.is_initialized()  # started alone
    joined = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda backend: joined.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: joined.append("left"))
    with pytest.raises(KeyError), distributed.processes(torch.device("cpu")):
        raise KeyError
    assert joined == ["gloo", "left"]
