"""Networks, devices and widths by the names that a user types."""

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from anywidth import models
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, RecipeError, WidthError
from anywidth.import_path import find
from anywidth.search import read_front
from anywidth.space.width import Width


def build_model(name: str, kwargs: dict[str, Any]) -> nn.Module:
    """A network with fresh weights; nothing is downloaded.

    Args:
        name: a class of `anywidth.models`, "torchvision:NAME", "timm:NAME", your own as "package.module:NAME", or a bare
            NAME that is looked up in the first three, in this order.
        kwargs: for the network's constructor.

    Raises:
        RecipeError: for a name that does not exist, or arguments the constructor refuses.
    """
    build = _builder(name)
    try:
        return build(**kwargs)
    except (TypeError, ValueError) as error:
        text = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise RecipeError(f"model {name!r} cannot be built with ({text}): {error}") from error


def _builder(name: str) -> Callable[..., nn.Module]:
    source, colon, short = name.rpartition(":")
    lookups = {"": _from_anywidth, "torchvision": _from_torchvision, "timm": _from_timm}
    if source not in lookups:
        try:
            return find("model", name, {})
        except RecipeError as error:
            raise RecipeError(
                f"{error}; expected NAME, torchvision:NAME or timm:NAME, or your own as package.module:NAME"
            ) from error
    for lookup in [lookups[source]] if colon else lookups.values():
        if build := lookup(short):
            return build
    known = _known_names(source if colon else None)
    close = difflib.get_close_matches(short, known, n=1)
    searched = source or "anywidth.models, torchvision and timm"
    raise RecipeError(
        f"model {name!r} is not in {searched}" + (f"; did you mean {close[0]!r}?" if close else "")
    )


def _from_anywidth(name: str) -> Callable[..., nn.Module] | None:
    return getattr(models, name) if name in models.__all__ else None


def _from_torchvision(name: str) -> Callable[..., nn.Module] | None:
    from torchvision.models import get_model_builder, list_models

    if name not in list_models():
        return None
    builder = get_model_builder(name)
    # A detector's backbone is downloaded by default, unlike every other weight.
    blank = {
        key: None for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters
    }
    return lambda **kwargs: builder(**blank, **kwargs)


def _from_timm(name: str) -> Callable[..., nn.Module] | None:
    import timm

    if not timm.is_model(name):
        return None
    return lambda **kwargs: timm.create_model(name, pretrained=False, **kwargs)


def _known_names(source: str | None) -> list[str]:
    import timm
    from torchvision.models import list_models

    names_by_source = {"": list(models.__all__), "torchvision": list_models(), "timm": timm.list_models()}
    return (
        names_by_source[source]
        if source is not None
        else [name for names in names_by_source.values() for name in names]
    )


def front_widths(path: Path, net: Elastic) -> dict[str, Width]:
    """Label -> width of the members of a front in a file.

    Raises:
        CheckpointError: no such file, or not the file of a front of this network.
    """
    members = read_front(path).members
    try:
        return {member.label: net.space.check(member.width) for member in members}
    except WidthError as error:
        raise CheckpointError(f"{path}: is the front of another network: {error}") from None


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) that a network expects of an image, without the batch."""
    if isinstance(model, models.SmallResNet):
        return (model.conv.in_channels, 8, 8)
    small = models.CifarVGG | models.CifarDenseNet | models.PreActResNet | models.JoslimCifarResNet
    if isinstance(model, small):
        return (3, 32, 32)
    if isinstance(model, models.VGGA):
        return (3, model.image_size, model.image_size)
    config = getattr(model, "default_cfg", None)  # timm
    if isinstance(config, dict) and "input_size" in config:
        return tuple(config["input_size"])
    return (3, 299, 299) if type(model).__name__ == "Inception3" else (3, 224, 224)


def device_named(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda".

    Raises:
        RecipeError: for a GPU where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(
            f"device = {name!r}: torch sees no GPU on this machine; use device=cpu or device=auto"
        )
    return torch.device(name)


def parse_widths(text: str) -> list[float | str]:
    """ "0.25,0.5,large" -> [0.25, 0.5, "large"]; a word is the label of a listed width.

    Raises:
        WidthError: for an empty list or entry.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise WidthError(
            f"widths {text!r}: expected numbers or labels with commas between them, like 0.25,0.5,1.0"
        )
    return [parse_width(entry) for entry in entries]


def widths_of(net: Elastic, widths: Sequence[float | str] | str) -> list[Any]:
    """Ratios and labels, from a sequence, from text like "0.25,large", or from "listed": all listed widths.

    Raises:
        WidthError: for text with an empty entry.
    """
    if isinstance(widths, str):
        return list(net.widths) if widths == "listed" else list(parse_widths(widths))
    return list(widths)


def key_values(settings: Sequence[str]) -> dict[str, Any]:
    """["steps=4", "shape=[1, 2]"] -> {"steps": 4, "shape": [1, 2]}: values are YAML, as in recipes.

    Raises:
        RecipeError: an entry without a key or a value.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not (key and equals):
            raise RecipeError(f"option {setting!r}: expected KEY=VALUE, like steps=4")
        values[key] = value
    return values


def parse_width(text: str) -> float | str:
    """A number if it reads as one, else a label."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_shape(text: str) -> tuple[int, ...]:
    """ "3x224x224" -> (3, 224, 224).

    Raises:
        WidthError: something else.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", text):
        raise WidthError(f"shape {text!r}: expected sizes with an x between them, like 3x224x224")
    return tuple(map(int, text.split("x")))
