"""The models of the coverage benchmark by family, each with random weights and an example: `make("timm:resnet50")`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import coverage_written
import hugging_face


def _words(text: str) -> list[str]:
    return text.split()


TORCHVISION = _words("""
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2
mobilenet_v3_small regnet_y_400mf regnet_x_400mf resnet18 resnet50 resnext50_32x4d wide_resnet50_2 shufflenet_v2_x0_5 squeezenet1_1
swin_t swin_v2_t vgg11 vgg11_bn vit_b_16
""")
SEGMENTATION = _words("""
deeplabv3_mobilenet_v3_large deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50 fcn_resnet101 lraspp_mobilenet_v3_large
""")
DETECTORS = _words("""
fasterrcnn_mobilenet_v3_large_320_fpn maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn retinanet_resnet50_fpn fcos_resnet50_fpn
ssdlite320_mobilenet_v3_large
""")
VIDEO = ["r3d_18", "mc3_18", "r2plus1d_18", "mvit_v2_s", "swin3d_t", "s3d"]
# One of every family of timm's (the smallest below 60 million parameters, where there is one), and others by random.Random(0).
TIMM = _words("""
beit_base_patch16_224 halonet_h1 mobileone_s0 repvgg_a0 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 convnext_atto
convnextv2_atto cpubone_nano crossvit_tiny_240 cs3darknet_focus_s cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121
dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 tinynet_c efficientnet_b0 efficientvim_m1
efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v4
lcnetv2_small levit_128s lowformer_b0 mambaout_femto coatnet_nano_rw_224 maxvit_rmlp_pico_rw_256 poolformerv2_s12 mixer_s32_224
gmlp_ti16_224 resmlp_12_224 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_hybrid_medium mobilevit_xxs mobilevitv2_050
mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 nfnet_f0 pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 repghostnet_050
repvit_m1 res2net50_26w_4s resnest14d resnet14t seresnet50 ecaresnet26t resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small visformer_tiny vit_tiny_patch16_224
vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception
xception41p xcit_nano_12_p8_224 vgg11 csatv2 sam2_hiera_tiny inception_v3 nasnetalarge pnasnet5large naflexvit_base_patch16_gap
resnetblur18 crossvit_15_240 regnety_008 convnextv2_tiny repvit_m0_9 efficientnet_lite4 resnest26d lcnet_050 repvit_m1_0
repvit_m1_5 ese_vovnet39b_evos mixnet_s cs3darknet_s mobilenetv2_140 resnet50s resnet26 botnet26t_256 resnetv2_34
tnt_s_patch16_224 rexnetr_100 resnetblur101d coatnet_pico_rw_224 regnetx_008 skresnet34 xception65 lcnet_035 lowformer_e1
resnetaa34d rexnet_150 eca_resnet33ts vit_small_patch16_dinov3_qkvb maxxvit_rmlp_nano_rw_256 resnetv2_101 hrnet_w30
ecaresnext50t_32x4d vit_small_patch16_lingbot lowformer_b2 fastvit_sa12 test_convnext2 mnasnet_140 regnetx_016
tf_efficientnet_cc_b0_4e efficientvim_m3 repvgg_b1g4 twins_pcpvt_small convnext_tiny_hnf hgnetv2_b1 resnetv2_50d_frn regnetz_c16
test_convnext cs3darknet_focus_x densenet201 dla102x efficientnet_x_b5 sequencer2d_m efficientnet_es efficientnet_b2 resnetv2_50d
res2net50_14w_8s test_vit2 rexnetr_200 tinynet_b rexnet_300 resnet51q resnet50c test_resnet cait_xxs36_384 ecaresnetlight
botnet50ts_256 mobilenet_edgetpu_v2_xs tf_efficientnet_lite0 mobilenetv4_conv_large regnetz_d8 darknet17 regnetx_120 resnetblur50
tf_efficientnet_el regnety_080 convnext_pico_ols pit_xs_distilled_224 ghostnetv2_160 test_efficientnet_ln nf_ecaresnet101
resnet101s mobileone_s4 vit_small_patch16_dinov3 swiftformer_l1 resnet101d test_maxvit resnet10t nest_small fastvit_s12
xcit_tiny_12_p8_224 tf_efficientnet_lite3
""")
DIFFUSERS = ["UNet2DModel", "UNet2DConditionModel", "AutoencoderKL", "DiTTransformer2DModel", "Transformer2DModel", "SD3Transformer2DModel"]  # fmt: skip
SMP = _words("""
Unet.resnet18 Unet.mobilenet_v2 FPN.resnet18 DeepLabV3Plus.mobilenet_v2 PSPNet.resnet18 Linknet.resnet18 PAN.resnet18 MAnet.resnet18
UnetPlusPlus.resnet18
""")
MONAI = ["UNet", "SegResNet", "DynUNet", "UNETR", "SwinUNETR", "BasicUNet"]
GRAPH = ["GCN", "GraphSAGE", "GAT", "GIN", "PNA", "EdgeCNN"]

ROUTED = ("experts", "Moe", "Mixtral", "Deepseek", "GptOss")
"""Parts of names of models in which the input decides which experts run, so that multiply-adds differ from width to width."""
FAMILIES: dict[str, list[str]] = {
    "tv": TORCHVISION,
    "tvseg": SEGMENTATION,
    "det": DETECTORS,
    "video": VIDEO,
    "timm": TIMM,
    "hf": list(hugging_face.MODELS),
    "diffusers": DIFFUSERS,
    "smp": SMP,
    "monai": MONAI,
    "graph": GRAPH,
    **coverage_written.FAMILIES,
}


def names(families: list[str] | None = None) -> list[str]:
    """All models as "family:model"; families take turns, so that the first part of the list has some of each."""
    lists = [[f"{f}:{n}" for n in FAMILIES[f]] for f in families or FAMILIES]
    placed = [((i + 0.5) / len(models), name) for models in lists for i, name in enumerate(models)]
    return [name for _, name in sorted(placed, key=lambda p: p[0])]


def make(name: str) -> tuple[nn.Module, Any]:
    """A freshly initialised model in evaluation mode, and an example: a tensor, a tuple of arguments or a dict of keywords."""
    torch.manual_seed(0)
    family, _, model = name.partition(":")
    if family in coverage_written.FAMILIES:
        net, example = coverage_written.make(model)
    else:
        net, example = _MAKERS[family](model)
    return alive(net.eval()), example


@torch.no_grad()
def alive(net: nn.Module) -> nn.Module:
    """Heads that are initialised with zeros would make every gradient zero."""
    for p in net.parameters():
        if p.ndim > 1 and not bool(p.any()):
            nn.init.normal_(p, std=0.02)
    return net


@torch.no_grad()
def image(net: nn.Module, size: int) -> Tensor:
    """One random image: 96 or 128 pixels where the model takes that, else its own size."""
    for s in (96, 128, size):
        x = torch.randn(1, 3, s, s)
        try:
            net(x)
            break
        except Exception:
            continue
    return x


def _torchvision(name: str) -> tuple[nn.Module, Any]:
    import torchvision

    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    net = getattr(torchvision.models, name)(weights=None, **options).eval()
    return net, image(net, 299 if name == "inception_v3" else 224)


def _segmentation(name: str) -> tuple[nn.Module, Any]:
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None), torch.randn(1, 3, 96, 96)


def _detector(name: str) -> tuple[nn.Module, Any]:
    from torchvision.models import detection

    size = {} if name.startswith("ssd") else {"min_size": 160, "max_size": 160}
    net = getattr(detection, name)(weights=None, weights_backbone=None, **size)
    return net, ([torch.rand(3, 160, 160)],)


def _video(name: str) -> tuple[nn.Module, Any]:
    from torchvision.models import video

    frames, size = {"mvit_v2_s": (16, 224), "s3d": (16, 224), "swin3d_t": (8, 64)}.get(name, (8, 64))
    return getattr(video, name)(weights=None), torch.randn(1, 3, frames, size, size)


def _timm(name: str) -> tuple[nn.Module, Any]:
    import timm

    net: Any = alive(timm.create_model(name, num_classes=1000).eval())
    return net, image(net, net.pretrained_cfg.get("input_size", (3, 224, 224))[-1])


def _hugging_face(name: str) -> tuple[nn.Module, Any]:
    net, example = hugging_face.small(name)
    for m in net.modules():
        if getattr(getattr(m, "config", None), "_experts_implementation", None) is not None:
            m.config._experts_implementation = (
                "eager"  # grouped_mm has no float64, and the FLOP counter does not know it
            )
    return net, example


def _diffusers(name: str) -> tuple[nn.Module, Any]:
    import diffusers

    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16}
    heads = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2, "sample_size": 8}
    picture, step = {"sample": torch.randn(1, 3, 16, 16)}, {"timestep": torch.tensor([5])}
    hidden, words = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 32)
    configs: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "UNet2DModel": ({**blocks, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 16}, picture | step),
        "UNet2DConditionModel": ({**blocks, "in_channels": 3, "out_channels": 3, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32, "attention_head_dim": 4}, picture | step | {"encoder_hidden_states": words}),
        "AutoencoderKL": ({**blocks, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}, picture),
        "DiTTransformer2DModel": ({**heads, "in_channels": 4, "patch_size": 2, "norm_num_groups": 8}, {"hidden_states": hidden, "class_labels": torch.tensor([3])} | step),
        "Transformer2DModel": ({**heads, "in_channels": 32, "norm_num_groups": 8, "cross_attention_dim": 32}, {"hidden_states": torch.randn(1, 32, 8, 8), "encoder_hidden_states": words}),
        "SD3Transformer2DModel": ({**heads, "in_channels": 4, "patch_size": 2, "joint_attention_dim": 32, "caption_projection_dim": 64, "pooled_projection_dim": 32, "out_channels": 4, "pos_embed_max_size": 8}, {"hidden_states": hidden, "encoder_hidden_states": words, "pooled_projections": torch.randn(1, 32)} | step),
    }  # fmt: skip
    config, example = configs[name]
    return getattr(diffusers, name)(**config), example


def _smp(name: str) -> tuple[nn.Module, Any]:
    import segmentation_models_pytorch as smp

    architecture, encoder = name.split(".")
    net = getattr(smp, architecture)(encoder_name=encoder, encoder_weights=None, in_channels=3, classes=4)
    return net, torch.randn(1, 3, 128, 128)


def _monai(name: str) -> tuple[nn.Module, Any]:
    from monai.networks import nets

    flat = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}
    configs: dict[str, dict[str, Any]] = {
        "UNet": {**flat, "channels": (16, 32, 64), "strides": (2, 2), "num_res_units": 2},
        "SegResNet": {**flat, "init_filters": 16},
        "DynUNet": {**flat, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [16, 32, 64]},
        "UNETR": {**flat, "img_size": 64, "feature_size": 16, "hidden_size": 96, "mlp_dim": 192, "num_heads": 4},
        "SwinUNETR": {**flat, "feature_size": 24, "depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24)},
        "BasicUNet": {**flat, "features": (16, 16, 32, 64, 64, 16)},
    }  # fmt: skip
    return getattr(nets, name)(**configs[name]), torch.randn(1, 1, 64, 64)


def _graph(name: str) -> tuple[nn.Module, Any]:
    from torch_geometric.nn import models

    edges = torch.randint(0, 20, (2, 80))
    degrees = torch.bincount(torch.bincount(edges[1], minlength=20))
    options: dict[str, Any] = {"GIN": {"norm": "batch_norm"}, "GAT": {"heads": 4}}.get(name, {})
    if name == "PNA":
        options = {"aggregators": ["mean", "max", "std"], "scalers": ["identity", "amplification"], "deg": degrees}  # fmt: skip
    net = getattr(models, name)(in_channels=12, hidden_channels=32, num_layers=3, out_channels=5, **options)
    return net, {"x": torch.randn(20, 12), "edge_index": edges}


_MAKERS: dict[str, Callable[[str], tuple[nn.Module, Any]]] = {
    "tv": _torchvision,
    "tvseg": _segmentation,
    "det": _detector,
    "video": _video,
    "timm": _timm,
    "hf": _hugging_face,
    "diffusers": _diffusers,
    "smp": _smp,
    "monai": _monai,
    "graph": _graph,
}
