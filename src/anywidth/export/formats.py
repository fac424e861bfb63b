"""Stand-alone copies of one width that run without this package: weights, a torch program, ONNX."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anywidth.errors import AnywidthError
from anywidth.files import replacing


class ExportError(AnywidthError, RuntimeError):
    """A network that cannot be written in the format asked for."""


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _batch_of_two(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    # torch.export specialises on sizes 0 and 1: traced with a batch of one, the program would accept no other.
    return tuple(x[:1].expand(2, *x.shape[1:]).contiguous() for x in inputs)


def _free_batch(inputs: Sequence[Tensor]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def export_weights(module: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors under the module's own key names.

    Args:
        module: an extracted network.
        path: file to write, whole or not at all.
    """
    # safetensors refuses tensors that share memory, as tied weights do: each key gets its own copy.
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in module.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def export_program(module: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
    """Write a program that `torch.export.load(path).module()` runs for any batch size, with torch alone.

    Args:
        module: an extracted network; exported in evaluation mode, its own mode is kept.
        inputs: example inputs (N, ...); everything but N becomes fixed.
        path: file to write, by convention *.pt2.

    Raises:
        ExportError: if torch cannot export the forward pass with a free batch size.
    """
    try:
        with _evaluating(module):
            program = torch.export.export(module, _batch_of_two(inputs), dynamic_shapes=_free_batch(inputs))
    except Exception as error:  # torch.export raises many types
        raise ExportError(
            f"torch.export cannot follow {type(module).__name__} with a free batch size: {_first_line(error)}"
        ) from error
    with replacing(path) as temporary:
        torch.export.save(program, temporary)


def export_onnx(module: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
    """Write an ONNX model with a free batch size.

    Args:
        module: an extracted network; exported in evaluation mode, its own mode is kept.
        inputs: example inputs (N, ...); everything but N becomes fixed.
        path: file to write, by convention *.onnx.

    Raises:
        ExportError: if the packages of the extra `export` are missing, or torch cannot export the network.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"ONNX export needs {' and '.join(missing)}: pip install 'anywidth[export]'")
    try:
        with _evaluating(module):
            program = torch.onnx.export(
                module,
                _batch_of_two(inputs),
                dynamo=True,
                dynamic_shapes=_free_batch(inputs),
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises many types
        raise ExportError(
            f"torch.onnx cannot export {type(module).__name__}: {_first_line(error)}"
        ) from error
    assert program is not None
    with replacing(path) as temporary:
        program.save(str(temporary), external_data=False)
