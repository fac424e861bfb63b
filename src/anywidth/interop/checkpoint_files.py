"""Foreign checkpoint files as plain state dictionaries, read without unpickling anything but tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anywidth.errors import CheckpointError

_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "module")
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a checkpoint and a network have in common, by name.

    Attributes:
        loaded: tensors that were taken.
        missing: names of the network that the file lacks.
        unexpected: names of the file that the network lacks.
        mismatched: names with their shapes in the file and in the network.
    """

    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        shapes = [f"{name} is {list(a)} in the file, {list(b)} here" for name, a, b in self.mismatched]
        clauses = [
            f"{len(names)} {problem} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
            for problem, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", shapes),
            )
            if names
        ]
        return f"{self.loaded} tensors fit" + (f"; {', '.join(clauses)}" if clauses else "")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: .safetensors, or .pt/.pth/.bin read with `weights_only`.

    Wrapping keys ("model", "state_dict", ...) and prefixes of names ("module.", "_orig_mod.") are taken off.

    Raises:
        CheckpointError: no such file, damaged, or holding other things than tensors.
    """
    return bare(path, read_whole(path))


def read_beside(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """As `read_state`, with what the file holds under `key` beside its tensors; None where there is nothing."""
    content = read_whole(path)
    return bare(path, content), content.get(key) if isinstance(content, Mapping) else None


def read_whole(path: Path, admitted: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """What a file holds, if that is tensors in plain containers.

    Args:
        path: .safetensors, or .pt/.pth/.bin, which is read with `weights_only`.
        admitted: stand-ins for further names in the file, with these names.

    Raises:
        CheckpointError: no such file, damaged, or holding other things.
    """
    _check_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([*admitted]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({error})") from error
    except Exception as error:  # torch raises many types, OSError for a file that was cut
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint of tensors ({type(error).__name__}: {reason}); it is damaged, or "
            "holds pickled objects, which are never loaded: save its state_dict alone"
        ) from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; give the path of a checkpoint")
    if not path.is_file():
        raise CheckpointError(f"{path}: is a folder; give the path of a checkpoint in it")
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror})") from error
    if path.suffix == ".zip":
        inside = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
        if not any(name.endswith("data.pkl") for name in inside):
            names = ", ".join(inside[:3]) or "nothing readable"
            raise CheckpointError(f"{path}: is an archive; unpack it and give the file in it ({names})")


def bare(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds, without wrapping keys and prefixes.

    Raises:
        CheckpointError: there is none.
    """
    # {"state_dict": {"module.conv.weight": t}, "epoch": 3} -> {"conv.weight": t}.
    while isinstance(content, Mapping) and not all(isinstance(v, Tensor) for v in content.values()):
        nested = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if nested is None:
            key, odd = next((k, v) for k, v in content.items() if not isinstance(v, Tensor))
            raise CheckpointError(
                f"{path}: holds no state_dict: its keys are {', '.join(map(repr, list(content)[:4]))}, and {key!r} is a "
                f"{type(odd).__name__}; expected tensors only, or one of {', '.join(_WRAPPERS)}"
            )
        content = nested
    if not isinstance(content, Mapping) or not content:
        empty = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise CheckpointError(f"{path}: holds {empty}, expected the tensors of a state_dict")
    nameless = [key for key in content if not isinstance(key, str)]
    if nameless:
        raise CheckpointError(
            f"{path}: holds tensors without names, like {nameless[0]!r}; expected a state_dict"
        )
    state = dict(content)
    while shared := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(shared): tensor for name, tensor in state.items()}
    return state


def compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Report:
    """By name and shape. Counters of batch norms may be missing: files older than 2018 lack them."""
    # expected {"a": (2, 3), "b": (4,)}, state {"a": (2, 2), "c": (1,)}: nothing loaded, "a" mismatched, "b" missing,
    # "c" unexpected.
    common = [name for name in expected if name in state]
    shapes = [
        (n, tuple(state[n].shape), tuple(expected[n].shape))
        for n in common
        if state[n].shape != expected[n].shape
    ]
    return Report(
        loaded=len(common) - len(shapes),
        missing=tuple(n for n in expected if n not in state and not n.endswith("num_batches_tracked")),
        unexpected=tuple(n for n in state if n not in expected),
        mismatched=tuple(shapes),
    )


@torch.no_grad()
def take_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `state` into a model of the same names; a missing counter of a batch norm becomes 1."""
    for name, tensor in model.state_dict().items():
        if name in state:
            tensor.copy_(state[name])
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1)
