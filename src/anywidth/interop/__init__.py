"""Checkpoints of other projects as elastic networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, WidthError, unknown_name
from anywidth.import_path import find
from anywidth.interop import detectors, dsnet, joslim, network_slimming, slimmable_networks
from anywidth.interop.checkpoint_files import Report
from anywidth.interop.wide_checkpoint import load_wide_

SOURCES = (
    "slimmable_networks",
    "slimmable_networks-detection",
    "network-slimming",
    "joslim",
    "dsnet",
    "torchvision",
    "timm",
)
_READERS: dict[str, Callable[..., Elastic]] = {
    "slimmable_networks-detection": detectors.load,
    "network-slimming": network_slimming.load,
    "joslim": joslim.load,
    "dsnet": dsnet.load,
}


def load(
    path: str | Path,
    source: str,
    model: str,
    widths: Sequence[Any] | Mapping[Any, Any] | None = None,
    *,
    image_size: int | None = None,
    sort: bool = True,
    model_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Elastic:
    """Read a checkpoint of another project.

    Args:
        path: the file.
        source: "slimmable_networks": the reference code of slimmable networks, universally slimmable networks and
            AutoSlim; "slimmable_networks-detection": its detectors; "network-slimming": that of Network Slimming, whose
            pruned networks are read as they are; "joslim": that of Joslim; "dsnet": that of DS-Net; "torchvision" or "timm": an ordinary network, which
            becomes the widest; "package.module:function": your own, called as function(path, model, widths, image_size=...,
            **options), gives an `Elastic`.
        model: the name there: "us_mobilenet_v1", "resnet164", "slim_resnet20", "resnet50", ...
        widths: listed widths. For "slimmable_networks" those of the file, in its order (AutoSlim: the channel lists);
            by default the published ones.
        image_size: pixels of the square for which costs are counted; by default 224, for detectors 320, for
            "network-slimming" and "joslim" those of the data set.
        sort: "torchvision" and "timm": bring the important channels to the front.
        model_options: "torchvision" and "timm": arguments of the model, like {"num_classes": 10}.
        options: further arguments of `Elastic`; not for "slimmable_networks".

    Raises:
        CheckpointError: unknown source or model, an unreadable file, or one that does not fit, with names and shapes.
        WidthError: impossible widths.
    """
    if source == "slimmable_networks":
        if options or model_options:
            unknown = [*options, *(["model_options"] if model_options else [])]
            raise CheckpointError(f"source 'slimmable_networks' takes no {', '.join(unknown)}")
        if widths is not None and (isinstance(widths, str) or not isinstance(widths, Sequence)):
            raise WidthError(
                f"widths = {widths!r}: expected a list in the order of the file, like [0.25, 0.5, 1.0]"
            )
        listed = None if widths is None else list(widths)
        return slimmable_networks.load(path, model, listed, image_size=image_size or 224)
    if source in _READERS:
        if model_options:
            raise CheckpointError(f"source {source!r} takes no model_options: the file says them")
        return _READERS[source](path, model, widths, image_size=image_size, **options)
    if ":" in source:
        if model_options:
            raise CheckpointError(f"source {source!r} takes no model_options: give it options of its own")
        return find("source of checkpoints", source, {})(
            path, model, widths, image_size=image_size, **options
        )
    if source not in SOURCES:
        raise CheckpointError(unknown_name("source of checkpoints", source, SOURCES))
    network = _ordinary(source, model, dict(model_options or {}))
    pixels = image_size or 224
    net = Elastic(network, torch.zeros(1, 3, pixels, pixels), widths=widths, **options)
    load_wide_(net, path, sort=sort)
    return net


def _ordinary(source: str, model: str, options: dict[str, Any]) -> torch.nn.Module:
    if source == "torchvision":
        import torchvision

        names = torchvision.models.list_models()
        if model not in names:
            raise CheckpointError(unknown_name("torchvision model", model, names))
        builder = torchvision.models.get_model_builder(model)
        # torchvision loads backbone weights by default in some builders, so both arguments are set to None.
        weight_arguments = [
            key for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters
        ]
        return builder(**dict.fromkeys(weight_arguments), **options)
    import timm

    if not timm.is_model(model):
        raise CheckpointError(unknown_name("timm model", model, timm.list_models()))
    return timm.create_model(model, pretrained=False, **options)


__all__ = [
    "SOURCES",
    "Report",
    "detectors",
    "dsnet",
    "joslim",
    "load",
    "load_wide_",
    "network_slimming",
    "slimmable_networks",
]
