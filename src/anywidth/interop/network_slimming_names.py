"""The networks in files of Network Slimming, and what their tensors are called there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from anywidth import models
from anywidth.errors import CheckpointError, unknown_name

MODELS = (
    "vgg11", "vgg13", "vgg16", "vgg19", "resnet20", "resnet56", "resnet110", "resnet164", "densenet40", "vgg_a",
)  # fmt: skip
"""Names of the usual networks; `resnet` takes any depth 9 n + 2, `densenet` any 3 n + 4."""

SELECT = "select.indexes"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of network in these files.

    Attributes:
        build: our class.
        marker: a name that only files of this kind have.
        head_weight: name of the weight of the last layer there, whose rows are the classes.
        renames: pattern in our names -> what stands there instead, in this order.
    """

    build: Callable[..., nn.Module]
    marker: str
    head_weight: str
    renames: tuple[tuple[str, str], ...] = ()


_STREAM = (
    (r"^features\.stem\.", "conv1."),
    (r"^features\.norm\.", "bn."),
    (r"^classifier\.", "fc."),
)
_INDEX = (r"\bbn1?\.index$", SELECT)
FAMILIES = {
    "vgg": Family(
        build=models.CifarVGG,
        marker="feature.0.weight",
        head_weight="classifier.weight",
        renames=((r"^features\.", "feature."),),
    ),
    "resnet": Family(
        build=models.PreActResNet,
        marker="layer1.0.bn1.weight",
        head_weight="fc.weight",
        renames=(
            *_STREAM,
            (r"^features\.stage(\d+)\.", r"layer\1."),
            (r"\.shortcut\.", ".downsample.0."),
            _INDEX,
        ),
    ),
    "densenet": Family(
        build=models.CifarDenseNet,
        marker="dense1.0.bn1.weight",
        head_weight="fc.weight",
        renames=(
            *_STREAM,
            (r"^features\.block(\d+)\.", r"dense\1."),
            (r"^features\.transition(\d+)\.", r"trans\1."),
            (r"\.norm\.", ".bn1."),
            (r"\.conv\.", ".conv1."),
            _INDEX,
        ),
    ),
    "vgg_a": Family(build=models.VGGA, marker="features.0.weight", head_weight="classifier.6.weight"),
}


def reference_name(family: Family, name: str) -> str:
    """Our name of a tensor -> its name in the files."""
    # `features.stage1.0.bn1.index` -> `layer1.0.bn1.index` -> `layer1.0.select.indexes`: patterns apply in order,
    # each to the result of the one before.
    for pattern, replacement in family.renames:
        name = re.sub(pattern, replacement, name)
    return name


def family_of(model: str) -> tuple[str, int | None]:
    """Family and depth of a name like "resnet164".

    Raises:
        CheckpointError: no such model.
    """
    match = re.fullmatch(r"(vgg|resnet|densenet)(\d+)", model)
    if match is None and model != "vgg_a":
        raise CheckpointError(unknown_name("model of network-slimming", model, MODELS))
    return (match[1], int(match[2])) if match else (model, None)


def check_family(name: str, model: str, state: Mapping[str, Tensor]) -> None:
    marker = FAMILIES[name].marker
    if marker in state:
        return
    detected = next((n for n, f in FAMILIES.items() if f.marker in state), None)
    if detected is None:
        raise CheckpointError(
            f"holds no network of network-slimming: expected '{marker}' for {model}, got names like "
            f"{', '.join(map(repr, list(state)[:3]))}"
        )
    description = detected if detected == "vgg_a" else f"{detected} of some depth"
    raise CheckpointError(
        f"has '{FAMILIES[detected].marker}', so it is no {model} but a {description}; give its name"
    )
