"""The backbone of a detector from a slimmable classifier, by name, with the norms of every width."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.models import ResNet
from anywidth.models.resnet import BLOCKS
from anywidth.norms import batch_norms
from anywidth.view import cut
from anywidth.width import Width

_LAYERS = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}


@dataclass(frozen=True, kw_only=True)
class BackboneReport:
    """What a backbone took from a classifier.

    Attributes:
        loaded: tensors, all widths together.
        unused: tensors of the classifier that no backbone has (its last layer).
        widths: label in the detector -> label in the classifier.
    """

    loaded: int
    unused: tuple[str, ...]
    widths: dict[Hashable, Hashable]


def load_backbone_(net: Elastic, classifier: Elastic) -> BackboneReport:
    """Give the backbone of a detector the weights of a slimmable classifier, and its norms at every listed width.

    Args:
        net: an elastic detector; changed in place.
        classifier: `anywidth.models.ResNet`, or a network whose features have the names of the backbone
            (torchvision's `resnet50`, `mobilenet_v3_large`); with statistics at the listed widths of `net`. Where it has
            a width twice, the first counts.

    Raises:
        CheckpointError: tensors that are missing or of another shape, or a width that the classifier lacks.
    """
    root, names = _root(net), _names(classifier.model)
    taken = {f"{root}.{names[name]}": name for name in classifier.model.state_dict()}
    wide = _wide(net.model)
    wanted = {n: t for n, t in wide.items() if n.startswith(f"{root}.")}
    given = _wide(classifier.model)
    _check(wanted, {mine: given[theirs] for mine, theirs in taken.items()})
    matched = {label: _match(net, label, classifier, wanted, taken) for label in net.widths}
    loaded = 0
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name in taken:
                tensor.copy_(given[taken[name]])
                loaded += 1
        for label, other in matched.items():
            loaded += _norms_(net, net.widths[label], classifier, classifier.widths[other], taken)
    net.drop_views_()
    unused = tuple(theirs for mine, theirs in taken.items() if mine not in wanted)
    return BackboneReport(loaded=loaded, unused=unused, widths=matched)


def _wide(model: nn.Module) -> dict[str, Tensor]:
    return model.state_dict(keep_vars=True)


def _root(net: Elastic) -> str:
    """The module of the detector that a classifier also has."""
    backbone = net.model.get_submodule("backbone")
    return next((f"backbone.{n}" for n in ("body", "features") if hasattr(backbone, n)), "backbone")


def _names(model: nn.Module) -> dict[str, str]:
    """Tensor of the classifier -> its name in torchvision's."""
    own = list(model.state_dict())
    if not isinstance(model, ResNet):
        return {name: name for name in own}
    blocks = next(b for b in BLOCKS.values() if sum(b) == len(model.features) - 1)  # type: ignore[arg-type]
    places = [f"layer{s}.{i}" for s, count in enumerate(blocks, 1) for i in range(count)]
    return {name: _torchvision_name(name, places) for name in own}


def _torchvision_name(name: str, places: list[str]) -> str:
    stem = re.fullmatch(r"features\.0\.([01])\.(.+)", name)
    if stem:
        return f"{_LAYERS[stem[1]]}.{stem[2]}"
    block = re.fullmatch(r"features\.(\d+)\.(body|shortcut)\.(\d)\.(.+)", name)
    if block is None:
        return name
    place = places[int(block[1]) - 1]
    inner = _LAYERS[block[3]] if block[2] == "body" else f"downsample.{block[3]}"
    return f"{place}.{inner}.{block[4]}"


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    shapes = [
        f"{n} is {list(given[n].shape)} in the classifier, {list(t.shape)} in the detector"
        for n, t in wanted.items()
        if n in given and given[n].shape != t.shape
    ]
    problems = [
        f"{len(found)} {kind} ({'; '.join(found[:3])})"
        for kind, found in (("missing", missing), ("of another shape", shapes))
        if found
    ]
    if problems:
        raise CheckpointError(f"the classifier does not fit the backbone: {', '.join(problems)}")


def _match(
    net: Elastic, label: Hashable, classifier: Elastic, wanted: Mapping[str, Tensor], taken: Mapping[str, str]
) -> Hashable:
    """The classifier's width whose norms have the channels of the detector's width."""
    norms = {
        n: t.numel() for n, t in _norm_state(net, net.widths[label]).items() if n in wanted and n in taken
    }
    for other, width in classifier.widths.items():
        state = _norm_state(classifier, width)
        if all(state[taken[n]].numel() == size for n, size in norms.items()):
            if not classifier.has_statistics(width):
                raise CheckpointError(
                    f"the classifier has no batch-norm statistics at width {other!r}; call classifier.calibrate(loader, "
                    f"widths=[{other!r}]) first"
                )
            return other
    raise CheckpointError(
        f"the classifier lists no width with the channels of {label!r} in the detector's backbone; it has "
        f"{', '.join(map(repr, classifier.widths))}"
    )


def _norm_state(net: Elastic, width: Width) -> dict[str, Tensor]:
    """Every tensor of every batch norm at a width."""
    own = net.norms.overrides(width)
    wide = dict(net.model.named_parameters()) | dict(net.model.named_buffers())
    state = {}
    for path, m in batch_norms(net.model).items():
        for name in (*m._parameters, *m._buffers):
            full = f"{path}.{name}"
            part = cut(net.space, full, width)
            state[full] = own[full] if full in own else wide[full] if part is None else part.of(wide[full])
    return state


def _norms_(net: Elastic, width: Width, classifier: Elastic, other: Width, taken: Mapping[str, str]) -> int:
    """Copy the norms of one width; how many tensors that were. The full width has them already."""
    own = net.norms.overrides(width)
    given = _norm_state(classifier, other)
    found = [(t, given[taken[n]]) for n, t in own.items() if n in taken and taken[n] in given]
    for tensor, source in found:
        tensor.copy_(source)
    return len(found)
