import timm
import torch
from torch.testing import assert_close

from anywidth import Elastic


def vit() -> timm.models.VisionTransformer:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)


def test_every_entry_reads_the_weights_as_they_are():
    x = torch.randn(2, 3, 32, 32)
    net = Elastic(vit(), x[:1])
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    view = net.at(0.5)
    for _ in range(3):
        optimizer.zero_grad()
        view.forward_head(view.forward_features(x)).square().mean().backward()
        optimizer.step()
    for v in (view, net.at(0.5)):
        assert_close(v.forward_head(v.forward_features(x)), net.extract(0.5)(x))
        assert_close(
            v.blocks[0](v.patch_embed(x)), net.extract(0.5).blocks[0](net.extract(0.5).patch_embed(x))
        )
