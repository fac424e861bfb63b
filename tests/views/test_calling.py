import timm
import torch
from torch import nn
from torch.testing import assert_close

from anywidth import Elastic
from live_views import X, mlp


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


def test_hooks_of_all_modules_run_in_views_too():
    view, seen = mlp().eval().at(0.5), []
    expected = view(X)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: seen.append(type(module).__name__)
    )
    try:
        assert_close(view(X), expected)
    finally:
        handle.remove()
    assert seen == ["Linear", "Dropout", "ReLU", "Linear", "ReLU", "Linear", "Sequential"]
    view(X)
    assert len(seen) == 7


def test_a_class_that_calls_in_its_own_way_does_so_in_views():
    class Doubled(nn.Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    model = nn.Sequential(Doubled(6, 8), nn.Linear(8, 2)).double()
    net = Elastic(model, X)
    assert_close(net.at(0.5)(X), net.extract(0.5)(X))
    assert_close(net.at(0.5)[0](X), 2 * nn.functional.linear(X, model[0].weight[:4], model[0].bias[:4]))
