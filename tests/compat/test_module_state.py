import pytest
import torch
from torch import nn

from anywidth.compat.module_state import (
    BACKWARD_HOOKS,
    BACKWARD_PRE_HOOKS,
    BUFFERS,
    COMPILED_CALL,
    FORWARD_HOOKS,
    FORWARD_PRE_HOOKS,
    HOOK_REGISTRATIONS,
    HOOK_REGISTRIES,
    MODULES,
    PARAMETERS,
    REGISTRIES,
    STANDARD_ATTRIBUTES,
    TENSOR_REGISTRIES,
    buffers_of,
    children_of,
    forward_hooks_of,
    forward_pre_hooks_of,
    parameters_of,
)


@pytest.mark.parametrize(
    "key", [*REGISTRIES, FORWARD_HOOKS, FORWARD_PRE_HOOKS, BACKWARD_HOOKS, BACKWARD_PRE_HOOKS]
)
def test_modules_keep_a_dict_under_every_key(key):
    assert isinstance(vars(nn.Module())[key], dict), f"torch no longer keeps '{key}' in a module's __dict__"


def test_the_registries_are_those_that_modules_read():
    norm = nn.BatchNorm2d(3)
    assert list(norm.__dict__[PARAMETERS]) == [n for n, _ in norm.named_parameters()]
    assert list(norm.__dict__[BUFFERS]) == [n for n, _ in norm.named_buffers()]
    assert list(nn.Sequential(norm, nn.ReLU()).__dict__[MODULES]) == ["0", "1"]
    assert (*REGISTRIES,) == (MODULES, *TENSOR_REGISTRIES)


def test_what_is_none_is_registered_too():
    assert parameters_of(nn.Linear(2, 2, bias=False))["bias"] is None
    assert buffers_of(nn.BatchNorm1d(2, track_running_stats=False))["running_mean"] is None
    shared = nn.ReLU()
    assert list(children_of(nn.ModuleDict({"a": shared, "b": shared}))) == ["a", "b"]


def test_what_is_written_to_a_registry_is_what_the_module_has():
    norm = nn.BatchNorm2d(3)
    scale, mean = nn.Parameter(torch.rand(3)), torch.rand(3)
    parameters_of(norm)["weight"] = scale
    buffers_of(norm)["running_mean"] = mean
    assert norm.weight is scale
    assert norm.running_mean is mean


def test_hooks_lie_where_they_are_looked_for():
    layer = nn.Linear(2, 2)

    def before(module, args):
        return None

    def after(module, args, out):
        return None

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)
    assert list(forward_pre_hooks_of(layer).values()) == [before]
    assert list(forward_hooks_of(layer).values()) == [after]
    forward_hooks_of(layer).clear()
    assert not layer.__dict__[FORWARD_HOOKS]


def test_backward_hooks_lie_where_they_are_looked_for():
    layer = nn.Linear(2, 2)
    layer.register_full_backward_hook(lambda module, inputs, outputs: None)
    layer.register_full_backward_pre_hook(lambda module, outputs: None)
    assert len(layer.__dict__[BACKWARD_HOOKS]) == 1
    assert len(layer.__dict__[BACKWARD_PRE_HOOKS]) == 1


def test_every_registration_of_a_hook_fills_a_known_registry():
    keys = {FORWARD_HOOKS, FORWARD_PRE_HOOKS, BACKWARD_HOOKS, BACKWARD_PRE_HOOKS}
    assert keys < set(HOOK_REGISTRIES)
    assert {"register_forward_hook", "register_state_dict_post_hook"} < set(HOOK_REGISTRATIONS)
    for name in HOOK_REGISTRATIONS:
        layer = nn.Linear(2, 2)
        getattr(layer, name)(lambda *args: None)
        assert any(len(layer.__dict__[key]) for key in HOOK_REGISTRIES if layer.__dict__[key] is not None), (
            f"'{name}' fills none of {HOOK_REGISTRIES}"
        )


def test_compiling_a_module_leaves_its_call_where_it_is_looked_for():
    layer = nn.Linear(2, 2)
    layer.compile(backend="eager")
    assert callable(layer.__dict__[COMPILED_CALL])
    assert set(vars(layer)) - STANDARD_ATTRIBUTES == {"in_features", "out_features"}
