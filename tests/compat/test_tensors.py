import pytest
import torch
from torch import Tensor, nn

from anywidth.compat.tensors import (
    DisableTorchFunctionSubclass,
    ParameterLike,
    is_functorch_wrapped,
    of_class,
    set_version_,
    storage_address,
    version_of,
)


def test_writes_raise_the_version_and_reads_do_not():
    t = torch.zeros(4)
    version = version_of(t)
    t.sum(), t[0], t.clone(), t.tolist()
    assert version_of(t) == version
    t.add_(1)
    assert version_of(t) > version


def test_a_write_to_an_alias_raises_the_version_of_both():
    t = torch.zeros(4)
    version, alias = version_of(t), t[:2]
    alias.fill_(1)
    assert version_of(t) == version_of(alias) > version


def test_a_write_to_data_leaves_no_mark():
    p = nn.Parameter(torch.zeros(4))
    version = version_of(p)
    p.data.add_(1)
    assert version_of(p) == version


def test_inference_tensors_have_no_version():
    with torch.inference_mode():
        t = torch.zeros(4)
    with pytest.raises(RuntimeError, match="version"):
        version_of(t)


def test_aliases_have_the_storage_in_common():
    t = torch.zeros(4)
    assert storage_address(t) == storage_address(t[2:]) == storage_address(t.detach())
    assert storage_address(t) != storage_address(t.clone())


def test_storages_without_elements_differ():
    a, b = torch.zeros(0), torch.zeros(0)
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    assert storage_address(a) != storage_address(b)


def test_tensors_of_functorch_are_known():
    t, seen = torch.ones(3), []

    def look(x):
        seen.append(is_functorch_wrapped(x))
        return x * 2

    torch.vmap(look)(t)
    torch.func.grad(lambda x: look(x).sum())(t)
    assert seen == [True, True]
    assert not is_functorch_wrapped(t)


def test_a_version_can_be_put_back_for_all_aliases():
    t = torch.zeros(3)
    t.add_(1)
    alias, version = t[1:], version_of(t)
    t.add_(1)
    set_version_(t, version)
    assert version_of(t) == version_of(alias) == version
    t.add_(1)
    assert version_of(alias) == version + 1


def test_no_torch_function_of_a_subclass_is_called_inside():
    calls = []

    class Noted(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with DisableTorchFunctionSubclass():
                calls.append(func)
                return func(*args, **(kwargs or {}))

    t = torch.ones(2).as_subclass(Noted)
    t + 1
    assert len(calls) == 1
    with DisableTorchFunctionSubclass():
        t + 1
    assert len(calls) == 1


def test_a_tensor_with_the_mark_is_a_parameter_and_no_leaf():
    weight = nn.Parameter(torch.ones(4))
    part = weight[:2].as_subclass(ParameterLike)
    assert isinstance(part, nn.Parameter)
    assert not part.is_leaf
    assert not isinstance(weight[:2], nn.Parameter)


class Scale(nn.Parameter):
    """A parameter with a constructor of its own."""

    def __new__(cls, channels: int, scale: float):
        return super().__new__(cls, torch.full((channels,), scale))


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("tensor_class", [nn.Parameter, Scale])
def test_a_leaf_of_a_class_shares_the_memory(tensor_class, requires_grad):
    t = torch.ones(3)
    leaf = of_class(t, tensor_class, requires_grad)
    assert type(leaf) is tensor_class
    assert leaf.is_leaf
    assert leaf.requires_grad is requires_grad
    assert leaf.data_ptr() == t.data_ptr()
