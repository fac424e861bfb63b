"""What a user of the package writes and names in recipes as "user_code:NAME"."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.prune import Source, criterion_of_sources
from anywidth.train.policies import width_policy
from anywidth.train.targets import Target, label_loss


def only(*, ratio: float):
    """A plain function: may train any width."""
    return lambda generator, progress=0.0: (ratio,)


@width_policy(draws_unlisted=False)
def first_and_last(listed):
    """Declared: trains listed widths only."""
    return lambda generator, progress=0.0: (listed[0], listed[-1])


@width_policy(draws_random=True)
def anything(*, low: float, high: float):
    """Declared: draws from a range."""
    return lambda generator, progress=0.0: (high, low)


def weighted(*, weight: float = 1.0, smoothing: float = 0.0):
    """A plain target."""
    return lambda logits, labels, context: weight * label_loss(logits, labels, smoothing=smoothing)


def taught():
    """A target that declares what it needs."""
    return Target(
        loss=lambda logits, labels, context: (logits - context.teacher()).square().mean(), needs_teacher=True
    )


def marked():
    """A target as it was declared before `Target`."""

    def loss(logits, labels, context):
        return logits.sum()

    loss.teacher = True
    return loss


def largest_weight(source: Source) -> np.ndarray:
    """A plain criterion: the largest weight of a filter."""
    return source.rows.abs().amax(1).numpy()


signed = criterion_of_sources(
    lambda source: source.gradient.sum(1).numpy(), comparable=True, needs_gradients=True
)


def shapes(module, inputs, path):
    """An export target: names and shapes as text."""
    path.write_text("".join(f"{n} {'x'.join(map(str, p.shape))}\n" for n, p in module.named_parameters()))


def by_rows(path, model, widths, *, image_size=None, **options):
    """A checkpoint format: one number per line, the weights of a linear layer (2, 4)."""
    rows = [float(line) for line in Path(path).read_text().split()]
    layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        layer[1].weight.copy_(torch.tensor(rows).reshape(2, 4))
    return Elastic(layer, torch.zeros(1, 4), widths=widths, **options)


def Perceptron(*, hidden: int = 8, classes: int = 10) -> nn.Module:  # noqa: N802
    """A network of one's own for 8 x 8 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def small_detector(
    *, num_classes: int, min_size: int = 64, max_size: int = 64, anchors: int = 16
) -> nn.Module:
    """A Faster R-CNN on three layers."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    layers.out_channels = 16
    generator = AnchorGenerator(((anchors,),), ((1.0,),))
    pool = MultiScaleRoIAlign(["0"], 3, 2)
    return FasterRCNN(
        layers,
        num_classes,
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=generator,
        box_roi_pool=pool,
    )
