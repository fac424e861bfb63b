"""What a tensor knows of its memory and its history, and tensors of classes of ours."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

version_of: Callable[[Tensor], int] = operator.attrgetter("_version")
"""How often a tensor was written in place, its aliases included; an inference tensor has none, and raises.

Autograd counts so to find saved tensors that were overwritten. Copies of a tensor are valid as long as the number stays, and
torch has no public name for it.
"""


def set_version_(tensor: Tensor, version: int) -> None:
    """Say that a tensor was written in place so many times: for one whose content was put back to what it was then.

    Torch has this for compilers, which replay what changes a tensor, and not in public.
    """
    torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))  # pyright: ignore[reportAttributeAccessIssue]


def storage_address(tensor: Tensor) -> int:
    """Which storage a tensor lies in: equal for aliases, and different for different storages that are alive.

    `untyped_storage().data_ptr()` is no substitute: two storages may share memory, and all storages without elements have the
    address 0. `StorageWeakRef(storage).cdata` is this number at the cost of a weak reference.
    """
    return tensor.untyped_storage()._cdata


is_functorch_wrapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
"""Whether a tensor is one of `vmap`, `grad` or `jvp`, which has no memory of its own whose address could be compared."""

is_wrapper: Callable[[Tensor], bool] = is_traceable_wrapper_subclass
"""Whether a tensor holds others and has no memory of its own (`DTensor`, quantised weights of torchao). Torch documents the
methods by which a class says so, and this question in no public module."""

DisableTorchFunctionSubclass = torch._C.DisableTorchFunctionSubclass
"""A context in which `__torch_function__` of tensor subclasses is not called, for use in that method itself.

Torch's notes on extending it name this class, by the name of the private module.
"""


class ParameterLike(Tensor):
    """A tensor that is an instance of `nn.Parameter` to `isinstance`, without being made by it.

    `nn.Parameter` makes leaves only. Its metaclass looks for this mark, which tensors of other classes may carry.
    """

    _is_param = True


def of_class(tensor: Tensor, tensor_class: type[Tensor], requires_grad: bool) -> Tensor:
    """A leaf of a class over the memory of a tensor; what `nn.Parameter` itself calls.

    `nn.Parameter(tensor)` makes that class only, and subclasses of it have constructors of their own; `as_subclass` makes
    no leaves.
    """
    return torch.Tensor._make_subclass(tensor_class, tensor, requires_grad)
