"""Classes built narrow by their own constructors, against the extracted copy of the wide network with the same shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

import anywidth as aw
from anywidth.space.axes import Size
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width
from coverage_laws import gap, outputs, with_statistics_
from coverage_models import alive


def matching_width(space: ChannelSpace, narrow: Mapping[str, torch.Size]) -> Width | str:
    """The width at which all tensors have these shapes, or the tensor that has no such width.

    An axis of one group whose number is not known yet tells it; what this leaves open is decided by the axes of several.
    """
    sizes = [
        (f"{name}[{dim}]", Size(0, axis), narrow[name][dim])
        for name, axes in space.axes.items()
        for dim, axis in enumerate(axes)
        if axis is not None and name in narrow
    ]
    kept: dict[int, int] = {}

    def size_at(size: Size, trial: Mapping[int, int]) -> int:
        return sum(
            r.each * (r.count if r.group < 0 else min(max(trial[r.group] - r.first, 0), r.count))
            for r in size.runs
        )

    changed = True
    while changed:
        changed = False
        for name, size, wanted in sizes:
            waiting = {r.group for r in size.runs if r.group >= 0} - kept.keys()
            if len(waiting) != 1:
                continue
            group = waiting.pop()
            fits = [
                k
                for k in range(1, space.groups[group].size + 1)
                if size_at(size, {**kept, group: k}) == wanted
            ]
            if not fits:
                return f"{name} is to have {wanted} positions, and has {size.full}"
            if len(fits) == 1:
                kept[group], changed = fits[0], True
    trial = {i: kept.get(i, g.size) for i, g in enumerate(space.groups)}
    for name, size, wanted in sizes:
        if size_at(size, trial) != wanted:
            return (
                f"{name} is to have {wanted} positions, and would have {size_at(size, trial)} of {size.full}"
            )
    return space.width([trial[i] * g.unit for i, g in enumerate(space.groups)])


def built_gap(wide: nn.Module, narrow: Sequence[nn.Module], example: Any) -> float | str:
    """Outputs of the constructor's narrow network with the extracted weights, against the extracted network's.

    The least gap over the narrow networks, or why the last of them could not be compared.
    """
    net = aw.Elastic(wide, example)
    results = [_gap(net, model, example) for model in narrow]
    gaps = [r for r in results if not isinstance(r, str)]
    return min(gaps) if gaps else results[-1]


def _gap(net: aw.Elastic, narrow: nn.Module, example: Any) -> float | str:
    shapes = {n: t.shape for n, t in narrow.state_dict().items()}
    width = matching_width(net.space, shapes)
    if isinstance(width, str):
        return f"no width has these shapes: {width}"
    if width == net.space.full:
        return "the width is that of the wide network"
    with_statistics_(net, width, example)
    small = net.extract(width).eval()
    for name, t in small.state_dict().items():
        if t.shape != shapes.get(name):
            reasons = {f.reason for f in net.space.frozen if f.tensor == name}
            return f"{name} is {tuple(t.shape)}, not {shapes.get(name)}: {'; '.join(sorted(reasons))}"
    narrow.load_state_dict(small.state_dict(), strict=True)
    with torch.no_grad():
        return gap(outputs(narrow, example), outputs(small, example))


def _conf(module: str, arch: str, factor: float) -> nn.Module:
    """torchvision's settings of a family at a width multiplier."""
    from torchvision.models import efficientnet, mobilenetv3

    if module == "mobilenetv3":
        setting, last = mobilenetv3._mobilenet_v3_conf(arch, width_mult=factor)
        return mobilenetv3.MobileNetV3(setting, last)
    blocks, last_channel = efficientnet._efficientnet_conf(arch, width_mult=factor, depth_mult=1.0)
    return efficientnet.EfficientNet(blocks, 0.2, last_channel=last_channel)


def _vgg(factor: float) -> nn.Module:
    from torchvision.models import vgg

    channels = [v if isinstance(v, str) else int(v * factor) for v in vgg.cfgs["A"][:-2]]
    return vgg.VGG(vgg.make_layers([*channels, 512, "M"], batch_norm=True), num_classes=10)


def _regnet(factor: float) -> nn.Module:
    from torchvision.models import regnet

    p = regnet.BlockParams.from_init_params(depth=4, w_0=48, w_a=27.89, w_m=2.09, group_width=8, se_ratio=0.25)  # fmt: skip
    p.widths, p.group_widths = [int(w * factor) for w in p.widths], [int(8 * factor)] * len(p.widths)
    return regnet.RegNet(p, num_classes=10)


def _convnext(factor: float) -> nn.Module:
    from torchvision.models import convnext

    d = [int(c * factor) for c in (32, 64, 128)]
    return convnext.ConvNeXt([convnext.CNBlockConfig(d[0], d[1], 1), convnext.CNBlockConfig(d[1], d[2], 1), convnext.CNBlockConfig(d[2], None, 1)], num_classes=10)  # fmt: skip


def _swin(factor: float, v2: bool = False) -> nn.Module:
    from torchvision.models import swin_transformer as s

    blocks: dict[str, Any] = {"block": s.SwinTransformerBlockV2, "downsample_layer": s.PatchMergingV2} if v2 else {}  # fmt: skip
    return s.SwinTransformer([2, 2], int(32 * factor), [1, 2], [2, int(4 * factor)] if v2 else [int(2 * factor), int(4 * factor)], [4, 4], num_classes=10, **blocks)  # fmt: skip


def _tv(name: str, *args: Any, **options: Any) -> nn.Module:
    import torchvision

    return getattr(torchvision.models, name)(*args, **options)


def _timm(name: str, options: Mapping[str, Any]) -> nn.Module:
    import importlib

    import timm

    if "." in name:
        file, cls = name.split(".")
        return getattr(importlib.import_module(f"timm.models.{file}"), cls)(num_classes=10, **options)
    return timm.create_model(name, num_classes=10, **options)


def _vit(factor: int) -> nn.Module:
    return _tv("VisionTransformer", 32, 8, 2, 4 // factor, 64 // factor, 128 // factor)


def _maxvit(factor: int) -> nn.Module:
    return _tv("MaxVit", (64, 64), 32 // factor, 2, [32 // factor, 64 // factor], [1, 1], 16, 0.0)


Pair = tuple[Callable[[], nn.Module], Callable[[], nn.Module], int]
"""The wide network, the narrow one, and the side of the image that they take."""

TORCHVISION: dict[str, Pair] = {
    "resnet50": (partial(_tv, "resnet50"), partial(_tv, "resnet50", width_per_group=32), 64),
    "resnext50": (partial(_tv, "resnet50", groups=32, width_per_group=4), partial(_tv, "resnet50", groups=32, width_per_group=2), 64),
    "mobilenet_v2": (partial(_tv, "mobilenet_v2"), partial(_tv, "mobilenet_v2", width_mult=0.5, round_nearest=1), 64),
    "mobilenet_v3": (partial(_conf, "mobilenetv3", "mobilenet_v3_small", 1.0), partial(_conf, "mobilenetv3", "mobilenet_v3_small", 0.75), 64),
    "efficientnet": (partial(_conf, "efficientnet", "efficientnet_b0", 1.0), partial(_conf, "efficientnet", "efficientnet_b0", 0.5), 64),
    "vgg": (partial(_vgg, 1.0), partial(_vgg, 0.5), 32),
    "regnet": (partial(_regnet, 1.0), partial(_regnet, 0.5), 64),
    "convnext": (partial(_convnext, 1.0), partial(_convnext, 0.5), 64),
    "shufflenet_v2": (partial(_tv, "ShuffleNetV2", [2, 2, 2], [24, 64, 128, 256, 512]), partial(_tv, "ShuffleNetV2", [2, 2, 2], [24, 32, 64, 128, 512]), 64),
    "densenet": (partial(_tv, "DenseNet", 16, (2, 2, 2, 2), 32), partial(_tv, "DenseNet", 8, (2, 2, 2, 2), 16), 64),
    "mnasnet": (partial(_tv, "MNASNet", 1.0), partial(_tv, "MNASNet", 0.5), 64),
    "vit": (partial(_vit, 1), partial(_vit, 2), 32),
    "swin": (partial(_swin, 1.0), partial(_swin, 0.5), 32),
    "swin_v2": (partial(_swin, 1.0, True), partial(_swin, 0.5, True), 32),
    "maxvit": (partial(_maxvit, 1), partial(_maxvit, 2), 64),
}  # fmt: skip

# name of a model, or of a class as "file.Class" -> what both have in common, the wide one's options, the narrow one's (or the name of
# another variant; or several, of which one is to agree: half the heads may be fewer heads or smaller ones), and the side of the image
Options = dict[str, Any]
_HEADS = {"num_heads": (2, 4, 8, 16)}
_HALF = [{"num_heads": h} for h in ((1, 2, 4, 8), (2, 4, 8, 16), (2, 2, 4, 8), (1, 1, 2, 4))]
TIMM: dict[str, tuple[Options, Options, Options | str | list[Options], int]] = {
    "vit_small_patch16_224": ({"depth": 2}, {}, {"embed_dim": 192, "num_heads": 3}, 224),
    "deit_small_patch16_224": ({"depth": 2}, {}, {"embed_dim": 192, "num_heads": 3}, 224),
    "beit_base_patch16_224": ({"depth": 2}, {}, {"embed_dim": 384, "num_heads": 6}, 224),
    "eva02_tiny_patch14_224": ({"depth": 2}, {"embed_dim": 256, "num_heads": 4}, {"embed_dim": 128, "num_heads": 2}, 224),
    "cait_xxs24_224": ({"depth": 2}, {}, {"embed_dim": 96, "num_heads": 2}, 224),
    "convit_tiny": ({}, {}, {"embed_dim": 48, "num_heads": 2}, 224),
    "mlp_mixer.MlpMixer": ({"img_size": 64, "num_blocks": 2}, {"embed_dim": 64}, {"embed_dim": 32}, 64),
    "convmixer.ConvMixer": ({"depth": 2}, {"dim": 64}, {"dim": 32}, 64),
    "metaformer.MetaFormer": ({"depths": (1, 1, 1, 1)}, {"dims": (32, 64, 96, 128)}, {"dims": (16, 32, 48, 64)}, 64),
    "volo.VOLO": ({"layers": [1, 1, 1, 1], "img_size": 64, "downsamples": (True, False, False, False)}, {"embed_dims": (32, 64, 64, 64), "num_heads": (2, 4, 4, 4)}, [{"embed_dims": (16, 32, 32, 32), "num_heads": h} for h in ((1, 2, 2, 2), (2, 4, 4, 4), (2, 2, 2, 2))], 64),
    "focalnet.FocalNet": ({"depths": (1, 1, 1, 1)}, {"embed_dim": 32}, {"embed_dim": 16}, 64),
    "nest.Nest": ({"img_size": 64, "depths": (1, 1, 1)}, {"embed_dims": (32, 64, 128), "num_heads": (2, 4, 8)}, [{"embed_dims": (16, 32, 64), "num_heads": h} for h in ((1, 2, 4), (2, 4, 8), (2, 2, 4))], 64),
    "convnext_atto": ({}, {}, {"dims": (20, 40, 80, 160)}, 64),
    "convnextv2_atto": ({}, {}, {"dims": (20, 40, 80, 160)}, 64),
    "inception_next_atto": ({}, {}, {"dims": (20, 40, 80, 160)}, 64),
    "mambaout_femto": ({}, {}, {"dims": (24, 48, 96, 144)}, 64),
    "pvt_v2_b0": ({}, {"embed_dims": (32, 64, 160, 256), **_HEADS}, [{"embed_dims": (16, 32, 80, 128), **h} for h in _HALF], 64),
    "swin_tiny_patch4_window7_224": ({"depths": (1, 1, 1, 1)}, {"embed_dim": 64, **_HEADS}, {"embed_dim": 32, **_HALF[0]}, 224),
    "swinv2_tiny_window8_256": ({"depths": (1, 1, 1, 1)}, {"embed_dim": 64, **_HEADS}, [{"embed_dim": 32, **h} for h in _HALF], 256),
    "resnet26": ({}, {}, {"channels": (32, 64, 128, 256), "stem_width": 32}, 64),
    "seresnet50": ({"layers": (1, 1, 1, 1)}, {}, {"channels": (32, 64, 128, 256), "stem_width": 32}, 64),
    "resnetv2_18": ({}, {}, {"channels": (32, 64, 128, 256), "stem_chs": 32}, 64),
    "xcit_nano_12_p8_224": ({"depth": 2}, {}, {"embed_dim": 64, "num_heads": 2}, 64),
    "davit_tiny": ({"depths": (1, 1, 1, 1)}, {"embed_dims": (64, 128, 256, 512), **_HEADS}, [{"embed_dims": (32, 64, 128, 256), **h} for h in _HALF], 64),
    "pit_ti_224": ({}, {}, [{"base_dims": (32, 32, 32), "heads": (1, 2, 4)}, {"base_dims": (16, 32, 32), "heads": (2, 2, 4)}, {"base_dims": (16, 16, 16), "heads": (2, 4, 8)}], 224),
    "sequencer2d_s": ({"layers": (1, 1, 1, 1)}, {}, {"embed_dims": (96, 192, 192, 192), "hidden_sizes": (24, 48, 48, 48)}, 224),
    "tiny_vit_5m_224": ({}, {}, {"embed_dims": (32, 64, 96, 160), "num_heads": (1, 2, 3, 5)}, 224),
    "hiera_tiny_224": ({"stages": (1, 1, 1, 1)}, {"embed_dim": 96, "num_heads": 2}, {"embed_dim": 48, "num_heads": 1}, 224),
    "starnet_s050": ({}, {"base_dim": 32}, {"base_dim": 16}, 64),
    "mobilenetv2_100": ({}, {}, "mobilenetv2_050", 64),
    "mnasnet_100": ({}, {}, "mnasnet_050", 64),
    "lcnet_100": ({}, {}, "lcnet_050", 64),
    "mobilenetv3_small_100": ({}, {}, "mobilenetv3_small_075", 64),
    "ghostnet_100": ({}, {}, "ghostnet_050", 64),
    "repghostnet_100": ({}, {}, "repghostnet_050", 64),
    "mobilevitv2_100": ({}, {}, "mobilevitv2_050", 64),
}  # fmt: skip

NAMES = [*TORCHVISION, *TIMM]


def built(name: str) -> tuple[nn.Module, list[nn.Module], Any]:
    """The wide network and the narrow ones, randomly initialised, and an example."""
    torch.manual_seed(0)
    if name in TORCHVISION:
        wide, narrow, side = TORCHVISION[name]
        models = [wide(), narrow()]
    else:
        common, wide_options, other, side = TIMM[name]
        variants = [(other, {})] if isinstance(other, str) else [(name, o) for o in (other if isinstance(other, list) else [other])]  # fmt: skip
        models = [_timm(n, {**common, **o}) for n, o in [(name, wide_options), *variants]]
    for m in models:
        alive(m.eval())
    return models[0], models[1:], torch.randn(1, 3, side, side)
