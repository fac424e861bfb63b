"""DS-Net: its network with the published widths, and checkpoints of the reference code. See `docs/import.md`.

Their files hold one set of running statistics for each number of channels that a layer was trained with
(`NAME.aux_bn.3.running_mean`), and the affine pair beside the last of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, unknown_name
from anywidth.interop import arguments, arrays
from anywidth.interop.checkpoint_files import bare, compare, read_whole
from anywidth.interop.dsnet_names import reference_module
from anywidth.models import DSMBNet
from anywidth.models.ds_mbnet import CANDIDATES, sub_networks
from anywidth.norms.bank import NormPolicy, batch_norms
from anywidth.space.groups import Policy
from anywidth.space.joined_groups import joined
from anywidth.space.width import Width
from anywidth.views.trial_runs import probed_space

MODELS = ("ds_mbnet",)
HEAD = "blocks.3.first_block.gate.gate.0.weight"
GATED = "stages.3.0.depthwise.attention"
"""The module whose squeezed feature the head reads, and after which widths differ."""
_HIDDEN = 66
_log = logging.getLogger(__name__)


def elastic(
    network: DSMBNet,
    image_size: int = 224,
    widths: Any = None,
    *,
    candidates: Sequence[Sequence[int]] = CANDIDATES,
    norm: NormPolicy = "shared",
    divisor: Policy = 1,
    minimum: Policy = 1,
) -> Elastic:
    """A DS-MBNet as an elastic network with one channel group for the stem and one for each stage.

    The hidden channels of its attentions stay. A label may be a number: `net.at(1)` and `net.at(1.0)` are the second
    narrowest network where that is listed, and the widest is `net.at("largest")`.

    Args:
        network: not copied.
        image_size: pixels of the square for which costs are counted.
        widths: listed widths, as of `Elastic`; by default all of `candidates`.
        candidates: channels that the stem and each stage may have, as of `sub_networks`.
        norm, divisor, minimum: as of `Elastic`.

    Raises:
        WidthError: impossible widths.
        ValueError: candidates that do not make sub-networks.
    """
    example = torch.zeros(1, 3, image_size, image_size)
    freeze = ["*.attention.squeeze.reduce"]
    space = probed_space(network, example, freeze, divisor, minimum)
    # A candidate is one number of channels for a whole stage, so the groups of its blocks become one.
    stages = {f"stages.{s}": f"stages.{s}.*" for s in range(len(network.stages))}
    space = joined(space, {"stem": "stem.*", **stages})
    listed = sub_networks(candidates) if widths is None else widths
    return Elastic(network, example, norm=norm, widths=listed, freeze=freeze, space=space)


def new(
    model: str = "ds_mbnet",
    widths: Any = None,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    candidates: Sequence[Sequence[int]] = CANDIDATES,
    model_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Elastic:
    """A DS-MBNet with fresh weights that lists the widths of its candidates.

    Args:
        model: an entry of `MODELS`.
        widths: other listed widths, as of `Elastic`.
        num_classes: number of logits, by default 1000.
        image_size: pixels of the square for which costs are counted, by default 224.
        candidates: channels that the stem and each stage may have, as of `sub_networks`; the last are the network's.
        model_options: further arguments of `DSMBNet`.
        options: further arguments of `elastic`.

    Raises:
        CheckpointError: unknown model.
        WidthError: impossible widths.
        ValueError: candidates that do not make sub-networks.

    Source: arXiv 2103.13258.
    """
    _check_model(model)
    channels = sub_networks(candidates)["largest"]
    classes = 1000 if num_classes is None else num_classes
    network = DSMBNet(classes, channels=channels, **(model_options or {}))
    return elastic(network, image_size or 224, widths, candidates=candidates, **options)


def _check_model(model: str) -> None:
    if model not in MODELS:
        raise CheckpointError(unknown_name("model of dsnet", model, MODELS))


def widths(net: Elastic, candidates: Sequence[Sequence[int]] = CANDIDATES) -> dict[Hashable, Width]:
    """Label -> width of the sub-networks of a network that `elastic` made: 0 to 13, "smallest" (that is 0) and "largest".

    Raises:
        WidthError: channels that the network does not have.
        ValueError: candidates that do not make sub-networks.
    """
    return {label: net.space.width(channels) for label, channels in sub_networks(candidates).items()}


def load(
    path: str | Path,
    model: str = "ds_mbnet",
    widths: Any = None,
    *,
    ema: bool | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    divisor: Policy = 1,
    minimum: Policy = 1,
) -> Elastic:
    """Read a checkpoint of the reference code. Its slimming head is left out: `head` reads it.

    Statistics are those of each number of channels, so that any width has them whose channels are all in `CANDIDATES`.
    Files whose batch norms were recalibrated have none for "largest": a warning is logged, calibrate it.

    Args:
        path: the file, or one that holds the tensors alone.
        model: an entry of `MODELS`.
        widths: listed widths, as of `Elastic`; by default the published ones.
        ema: the moving average (`state_dict_ema`) or the trained weights; by default the average where there is one.
        num_classes: only a check: the file says how many there are.
        image_size: pixels of the square for which costs are counted, by default 224.
        divisor, minimum: as of `Elastic`.

    Raises:
        CheckpointError: unknown model, unreadable, of another model, of other widths, or of another number of classes.
        WidthError: impossible widths.

    Source: arXiv 2103.13258.
    """
    _check_model(model)
    state = _read(Path(path), ema)
    state.pop(HEAD, None)
    classes = _classes(path, state)
    if num_classes not in (None, classes):
        raise CheckpointError(f"{path}: holds {classes} classes, expected num_classes = {num_classes}")
    _check_entries(path, state)
    net = elastic(DSMBNet(classes), image_size or 224, widths, divisor=divisor, minimum=minimum)
    targets_by_name = _file_targets(net)
    report = compare(state, {name: expected for name, (expected, _) in targets_by_name.items()})
    if not report.fits:
        raise CheckpointError(f"{path} does not fit {model}: {report}")
    with torch.no_grad():
        for name, (_, targets) in targets_by_name.items():
            for target in targets if name in state else ():
                target.copy_(state[name])
    _count_(path, net)
    net.drop_views_()
    return net


def head(path: str | Path, *, ema: bool | None = None) -> Tensor:
    """Weights of the slimming head in a checkpoint, (choices, 66, 1, 1): logits of label 0, 1, ... from the squeezed
    feature of the attention in `stages.3.0`. Files of networks that were trained without it hold its initial noise.

    Args:
        path, ema: as of `load`.

    Raises:
        CheckpointError: unreadable, without a head, or with one of another feature.
    """
    state = _read(Path(path), ema)
    if HEAD not in state:
        raise CheckpointError(f"{path}: holds no slimming head ('{HEAD}')")
    shape = tuple(state[HEAD].shape)
    if len(shape) != 4 or shape[0] < 2 or shape[1:] != (_HIDDEN, 1, 1):
        raise CheckpointError(
            f"{path}: the slimming head '{HEAD}' is {list(shape)}, expected [choices, {_HIDDEN}, 1, 1] with 2 choices or more"
        )
    return state[HEAD].clone()


def _read(path: Path, ema: bool | None) -> dict[str, Tensor]:
    content = read_whole(path, (*arguments.NAMES, *arrays.NAMES))
    average = content.get("state_dict_ema") if isinstance(content, Mapping) else None
    if ema and average is None:
        raise CheckpointError(f"{path}: holds no moving average ('state_dict_ema'); read it with ema=False")
    return bare(path, content if average is None or ema is False else average)


def _classes(path: str | Path, state: Mapping[str, Tensor]) -> int:
    weight = state.get("classifier.weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(f"{path} does not fit ds_mbnet: 'classifier.weight' is missing or no matrix")
    return weight.shape[0]


def _check_entries(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Batch norms of stage 4's output have an entry for each sub-network."""
    last_norm = f"blocks.{len(CANDIDATES) - 2}.first_block.bn2.aux_bn"
    pattern = re.compile(re.escape(last_norm) + r"\.(\d+)\.running_mean")
    width_count = sum(pattern.fullmatch(name) is not None for name in state)
    if width_count != len(CANDIDATES[-1]):
        raise CheckpointError(
            f"{path}: holds batch norms of {width_count} widths ('{last_norm}.0', ...), expected the {len(CANDIDATES[-1])} of ds_mbnet"
        )


def _file_targets(net: Elastic) -> dict[str, tuple[Tensor, list[Any]]]:
    """Name in the file -> a tensor of its shape, and our tensors that it fills: a statistic goes to every listed width
    that has so many channels there, and to the widest network."""
    # Stage 4 has 14 candidates, 224 to 640 channels: the statistics of a norm of 256 channels are entry 1, and go to
    # every listed width that keeps 256 channels there.
    norms = batch_norms(net.model)
    listed = {w: net.norms.overrides(w) for w in (*net.widths.values(), net.space.full) if w.is_prefix}
    targets_by_name: dict[str, tuple[Tensor, list[Any]]] = {}
    for name, full_tensor in net.model.state_dict(keep_vars=True).items():
        path, _, tensor_name = name.rpartition(".")
        if path not in norms:
            targets_by_name[f"{reference_module(path)}.{tensor_name}"] = (full_tensor, [full_tensor])
            continue
        group = net.space.axes[f"{path}.running_mean"][0][0].group  # type: ignore[index]
        numbered_candidates = list(enumerate(CANDIDATES[group]))
        if tensor_name in ("weight", "bias"):
            targets_by_name[
                f"{reference_module(path)}.aux_bn.{len(numbered_candidates) - 1}.{tensor_name}"
            ] = (
                full_tensor,
                [full_tensor],
            )
            continue
        for entry, channels in numbered_candidates:
            expected = torch.empty([channels] * full_tensor.ndim, device="meta")
            targets = [
                tensors.get(name, full_tensor) for w, tensors in listed.items() if w.kept[group] == channels
            ]
            targets_by_name[f"{reference_module(path)}.aux_bn.{entry}.{tensor_name}"] = (expected, targets)
    return targets_by_name


def _count_(path: str | Path, net: Elastic) -> None:
    """Statistics count as collected where each batch norm has some: the reference's counters stay 0."""
    # `has_statistics` asks the counters, which the reference never advances.
    for tensors in net.norms.statistics.values():
        _set_counters_(tensors, 0 if _blank(tensors) else 1)
    full_tensors = net.model.state_dict(keep_vars=True)
    _set_counters_(full_tensors, 1)
    if blank := _blank(full_tensors):
        _log.warning(
            "%s: %d batch norms of 'largest' have means 0 and variances 1 (like '%s'), as the reference's recalibration "
            "leaves them; call net.calibrate(loader, widths=['largest']) before evaluating it",
            path, len(blank), blank[0],
        )  # fmt: skip


def _blank(tensors: Mapping[str, Tensor]) -> list[str]:
    """Batch norms whose statistics were never measured."""
    means = {n.removesuffix(".running_mean"): t for n, t in tensors.items() if n.endswith(".running_mean")}
    return [n for n, mean in means.items() if not mean.any() and (tensors[f"{n}.running_var"] == 1).all()]


@torch.no_grad()
def _set_counters_(tensors: Mapping[str, Tensor], minimum: int) -> None:
    for name, count in tensors.items():
        if name.endswith(".num_batches_tracked"):
            count.fill_(max(int(count), 1) if minimum else 0)
