"""What a width can be written as: one table, target -> function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anywidth.errors import RecipeError
from anywidth.export.formats import ExportError, export_onnx, export_program, export_weights
from anywidth.import_path import find

_DESCRIPTION = "model.json"  # beside the files of all targets
Write = Callable[[nn.Module, Sequence[Any], Path], None]
"""Extracted network in evaluation mode, example inputs - (N, ...), or a list of images -, file to write whole or not at all."""


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
    """A kind of file.

    Attributes:
        write: makes the file.
        suffix: of its name, with the dot.
    """

    write: Write
    suffix: str

    def __call__(self, module: nn.Module, inputs: Sequence[Any], path: Path) -> None:
        self.write(module, inputs, path)


def _weights(module: nn.Module, inputs: Sequence[Any], path: Path) -> None:
    export_weights(module, path)


TARGETS: Mapping[str, ExportTarget] = {
    "weights": ExportTarget(write=_weights, suffix=".safetensors"),
    "program": ExportTarget(write=export_program, suffix=".pt2"),
    "onnx": ExportTarget(write=export_onnx, suffix=".onnx"),
}


def export_target(
    target: str | ExportTarget | Write, known: Mapping[str, ExportTarget] = TARGETS
) -> ExportTarget:
    """A target by its name, by that of the user's own ("package.module:NAME"), or as it is.

    Args:
        known: name -> target, where not all networks can be written in the same ways.

    Raises:
        RecipeError: no such name, module or function.
    """
    resolved = find("export target", target, known) if isinstance(target, str) else target
    return resolved if isinstance(resolved, ExportTarget) else ExportTarget(write=resolved, suffix="")


def named_files(names: Sequence[str], known: Mapping[str, ExportTarget] = TARGETS) -> dict[str, ExportTarget]:
    """Name of a file -> what writes it, for targets that are named in a list: each once, in this order.

    A function without a suffix of its own gives its name: "mypackage.targets:shapes" writes model.shapes.

    Raises:
        RecipeError: an unknown one, or two that write the same file.
    """
    files: dict[str, ExportTarget] = {}
    for name in dict.fromkeys(names):
        target = export_target(name, known)
        file = f"model{target.suffix or '.' + name.rpartition(':')[2]}"
        if file in files or file == _DESCRIPTION:
            raise RecipeError(
                f"export target {name!r} writes {file}, which is written already; give it another suffix"
            )
        files[file] = target
    return files


def write_files(
    files: Mapping[str, ExportTarget], module: nn.Module, inputs: Sequence[Any], folder: Path
) -> None:
    """Write an extracted network as all of these files.

    Raises:
        ExportError: a target that wrote nothing.
    """
    for file, target in files.items():
        target(module, inputs, folder / file)
        if not (folder / file).exists():
            raise ExportError(f"the export target of {file} wrote no such file")


def export_as(
    target: str | ExportTarget | Write, module: nn.Module, inputs: Sequence[Tensor], path: str | Path
) -> Path:
    """Write an extracted network as a file that runs without this package.

    Args:
        target: "weights" (safetensors), "program" (`torch.export`), "onnx", or your own, see `export_target`.
        module: from `net.extract(width)`.
        inputs: example inputs (N, ...), for targets that run the network.
        path: file to write; the suffix of the target is added where the name has none.

    Returns:
        The file.

    Raises:
        RecipeError: unknown target.
        ExportError: the network cannot be written so, or packages are missing.
    """
    resolved, file = export_target(target), Path(path)
    if not file.suffix:
        file = file.with_suffix(resolved.suffix)
    resolved(module, inputs, file)
    return file
