import inspect

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.modules import _functions

from anywidth.compat.distributed import FSDP_STATE, fsdp_state_of, synchronised_batch_norm


def test_the_function_is_that_of_torch_and_takes_these_arguments():
    assert synchronised_batch_norm == _functions.SyncBatchNorm.apply
    assert list(inspect.signature(_functions.SyncBatchNorm.forward).parameters)[1:] == [
        "input",
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "eps",
        "momentum",
        "process_group",
        "world_size",
    ]


def test_sharded_modules_are_asked_for_their_state_by_this_method():
    assert hasattr(FSDPModule, FSDP_STATE)
    state = object()

    class Sharded(nn.Module):
        pass

    setattr(Sharded, FSDP_STATE, lambda self: state)
    assert fsdp_state_of(Sharded()) is state
