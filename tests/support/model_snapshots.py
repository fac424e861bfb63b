"""Everything that can be seen of a model, to compare before and after."""

from collections import deque

import torch
from torch import Tensor, nn


def snapshot(model: nn.Module) -> dict[str, object]:
    """Name of a thing -> what it is: objects by identity, tensors by identity, flags and bytes; also of the process."""
    seen: dict[str, object] = {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": torch.get_rng_state().tolist(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
    }
    for path, module in model.named_modules():
        seen[f"{path}: class"] = type(module)
        for c in type(module).__mro__:
            if not f"{c.__module__}.".startswith(("torch.nn", "builtins")):
                for k, v in vars(c).items():
                    if not k.startswith("__"):
                        _add(seen, f"{path}: {c.__name__}.{k}", v, 0)
        _add(seen, path, vars(module), 0)
    return seen


def _add(seen: dict[str, object], name: str, value: object, depth: int) -> None:
    if depth > 8:
        return
    if isinstance(value, Tensor):
        seen[name] = (id(value), value.shape, value.dtype, value.requires_grad, value._version)
        seen[f"{name} grad"] = id(value.grad) if value.is_leaf and value.grad is not None else None
        seen[f"{name} values"] = value.detach().clone().numpy().tobytes()
    elif isinstance(value, dict):
        seen[name] = (id(value), list(map(str, value)))
        for k, v in list(value.items()):
            _add(seen, f"{name}.{k}", v, depth + 1)
    elif isinstance(value, list | tuple | deque):
        seen[name] = (id(value), len(value))
        for i, v in enumerate(value):
            _add(seen, f"{name}[{i}]", v, depth + 1)
    elif isinstance(value, int | float | str | bool | type(None) | set):
        seen[name] = repr(value)
    else:
        seen[name] = id(value)
        if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type) and not callable(value):
            _add(seen, f"{name} vars", vars(value), depth + 1)


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [n for n in {**before, **after} if before.get(n, "-") != after.get(n, "-")]
