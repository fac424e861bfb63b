import sys

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from anywidth.compat.module_calls import (
    GLOBAL_BACKWARD_HOOKS,
    GLOBAL_BACKWARD_PRE_HOOKS,
    GLOBAL_FORWARD_HOOKS,
    GLOBAL_FORWARD_PRE_HOOKS,
    MODULE_CALL_CODE,
    has_plain_call,
    jit_tracing_state,
)


def test_hooks_of_all_modules_lie_where_they_are_looked_for():
    for register, hooks in {
        torch_module.register_module_forward_hook: GLOBAL_FORWARD_HOOKS,
        torch_module.register_module_forward_pre_hook: GLOBAL_FORWARD_PRE_HOOKS,
        torch_module.register_module_full_backward_hook: GLOBAL_BACKWARD_HOOKS,
        torch_module.register_module_full_backward_pre_hook: GLOBAL_BACKWARD_PRE_HOOKS,
    }.items():
        assert not hooks
        handle = register(lambda *args: None)
        try:
            assert len(hooks) == 1, register.__name__
        finally:
            handle.remove()
        assert not hooks


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:FutureWarning")
def test_there_is_a_state_only_while_a_trace_is_recorded():
    states = []

    def forward(x):
        states.append(jit_tracing_state())
        return x + 1

    assert jit_tracing_state() is None
    torch.jit.trace(forward, torch.ones(1), check_trace=False)
    assert len(states) == 1
    assert states[0] is not None
    assert jit_tracing_state() is None


def test_a_call_of_a_module_is_a_frame_with_this_code():
    class Layer(nn.Module):
        def forward(self):
            frame, codes = sys._getframe(), []
            while frame is not None:
                codes.append(frame.f_code)
                frame = frame.f_back
            return codes

    layer = Layer()
    assert MODULE_CALL_CODE in layer()
    assert MODULE_CALL_CODE not in layer.forward()


def test_a_class_that_overrides_its_call_or_the_body_of_it_has_no_plain_one():
    class Called(nn.Linear):
        def __call__(self, *args):
            return super().__call__(*args)

    class Bodied(nn.Linear):
        def _call_impl(self, *args):
            return super()._call_impl(*args)

    assert has_plain_call(nn.Linear)
    assert not has_plain_call(Called)
    assert not has_plain_call(Bodied)
