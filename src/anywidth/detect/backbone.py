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
from anywidth.norms.bank import batch_norms
from anywidth.space.width import Width
from anywidth.views import cut

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
    # One tensor has three names, for instance
    # `features.1.body.0.weight` in our ResNet, `layer1.0.conv1.weight` in torchvision and
    # `backbone.body.layer1.0.conv1.weight` in the detector.
    root, names = _root(net), _names(classifier.model)
    classifier_names = {f"{root}.{names[name]}": name for name in classifier.model.state_dict()}
    detector_tensors = _wide(net.model)
    backbone_tensors = {n: t for n, t in detector_tensors.items() if n.startswith(f"{root}.")}
    classifier_tensors = _wide(classifier.model)
    _check(
        backbone_tensors,
        {
            backbone_name: classifier_tensors[classifier_name]
            for backbone_name, classifier_name in classifier_names.items()
        },
    )
    classifier_labels = {
        label: _match(net, label, classifier, backbone_tensors, classifier_names) for label in net.widths
    }
    loaded = 0
    with torch.no_grad():
        # Full-width tensors first; then, for each narrow width, the norms that it stores separately.
        for name, tensor in backbone_tensors.items():
            if name in classifier_names:
                tensor.copy_(classifier_tensors[classifier_names[name]])
                loaded += 1
        for label, classifier_label in classifier_labels.items():
            loaded += _norms_(
                net, net.widths[label], classifier, classifier.widths[classifier_label], classifier_names
            )
    net.drop_views_()
    unused = tuple(
        classifier_name
        for backbone_name, classifier_name in classifier_names.items()
        if backbone_name not in backbone_tensors
    )
    return BackboneReport(loaded=loaded, unused=unused, widths=classifier_labels)


def _wide(model: nn.Module) -> dict[str, Tensor]:
    return model.state_dict(keep_vars=True)


def _root(net: Elastic) -> str:
    """The module of the detector that a classifier also has."""
    backbone = net.model.get_submodule("backbone")
    return next((f"backbone.{n}" for n in ("body", "features") if hasattr(backbone, n)), "backbone")


def _names(model: nn.Module) -> dict[str, str]:
    """Tensor of the classifier -> its name in torchvision's."""
    names = list(model.state_dict())
    if not isinstance(model, ResNet):
        return {name: name for name in names}
    blocks = next(b for b in BLOCKS.values() if sum(b) == len(model.features) - 1)  # type: ignore[arg-type]
    block_paths = [f"layer{s}.{i}" for s, count in enumerate(blocks, 1) for i in range(count)]
    return {name: _torchvision_name(name, block_paths) for name in names}


def _torchvision_name(name: str, block_paths: list[str]) -> str:
    stem = re.fullmatch(r"features\.0\.([01])\.(.+)", name)
    if stem:
        return f"{_LAYERS[stem[1]]}.{stem[2]}"
    block = re.fullmatch(r"features\.(\d+)\.(body|shortcut)\.(\d)\.(.+)", name)
    if block is None:
        return name
    block_path = block_paths[int(block[1]) - 1]
    layer = _LAYERS[block[3]] if block[2] == "body" else f"downsample.{block[3]}"
    return f"{block_path}.{layer}.{block[4]}"


def _check(expected: Mapping[str, Tensor], available: Mapping[str, Tensor]) -> None:
    missing = [n for n in expected if n not in available and not n.endswith("num_batches_tracked")]
    shapes = [
        f"{n} is {list(available[n].shape)} in the classifier, {list(t.shape)} in the detector"
        for n, t in expected.items()
        if n in available and available[n].shape != t.shape
    ]
    problems = [
        f"{len(descriptions)} {problem} ({'; '.join(descriptions[:3])})"
        for problem, descriptions in (("missing", missing), ("of another shape", shapes))
        if descriptions
    ]
    if problems:
        raise CheckpointError(f"the classifier does not fit the backbone: {', '.join(problems)}")


def _match(
    net: Elastic,
    label: Hashable,
    classifier: Elastic,
    backbone_tensors: Mapping[str, Tensor],
    classifier_names: Mapping[str, str],
) -> Hashable:
    """The classifier's width whose norms have the channels of the detector's width."""
    channels = {
        n: t.numel()
        for n, t in _norm_state(net, net.widths[label]).items()
        if n in backbone_tensors and n in classifier_names
    }
    for classifier_label, width in classifier.widths.items():
        state = _norm_state(classifier, width)
        if all(state[classifier_names[n]].numel() == size for n, size in channels.items()):
            if not classifier.has_statistics(width):
                raise CheckpointError(
                    f"the classifier has no batch-norm statistics at width {classifier_label!r}; call classifier.calibrate(loader, "
                    f"widths=[{classifier_label!r}]) first"
                )
            return classifier_label
    raise CheckpointError(
        f"the classifier lists no width with the channels of {label!r} in the detector's backbone; it has "
        f"{', '.join(map(repr, classifier.widths))}"
    )


def _norm_state(net: Elastic, width: Width) -> dict[str, Tensor]:
    """Every tensor of every batch norm at a width."""
    overrides = net.norms.overrides(width)
    full_tensors = dict(net.model.named_parameters()) | dict(net.model.named_buffers())
    # A width stores only what differs from the full network; the rest is a slice of the full tensor,
    # (C,) -> (K,).
    state = {}
    for path, m in batch_norms(net.model).items():
        for name, _ in (*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)):
            tensor_name = f"{path}.{name}"
            slicing = cut(net.space, tensor_name, width)
            state[tensor_name] = (
                overrides[tensor_name]
                if tensor_name in overrides
                else full_tensors[tensor_name]
                if slicing is None
                else slicing.of(full_tensors[tensor_name])
            )
    return state


def _norms_(
    net: Elastic,
    width: Width,
    classifier: Elastic,
    classifier_width: Width,
    classifier_names: Mapping[str, str],
) -> int:
    """Copy the norms of one width; how many tensors that were. The full width has them already."""
    overrides = net.norms.overrides(width)
    classifier_state = _norm_state(classifier, classifier_width)
    pairs = [
        (t, classifier_state[classifier_names[n]])
        for n, t in overrides.items()
        if n in classifier_names and classifier_names[n] in classifier_state
    ]
    for tensor, source in pairs:
        tensor.copy_(source)
    return len(pairs)
