"""Trains the network of every case for three steps behind a wrapper, in several processes, and writes the weights: wrappers.py OUT.

`reference` is the same training without any wrapper, in one process, on the batches of all.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import anywidth as aw
from anywidth.train.at_width import AtWidth
from processes import fork
from random_nets import RandomNet

WIDTHS = (1.0, 0.5, 0.25)
STEPS, BATCH = 3, 8
IMAGES = torch.randn(STEPS * BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


# --- networks -----------------------------------------------------------------------------------------------------------


def elastic(model: nn.Module, **options: Any) -> aw.Elastic:
    return aw.Elastic(model.double(), IMAGES[:1], widths=WIDTHS, **options)


def gathered() -> aw.Elastic:
    """Concatenation makes the kept channels of later layers no slice of the wide ones."""
    return elastic(
        RandomNet(("dense", "groupnorm", "residual", "depthwise", "gate", "plain"), (8, 4, 8, 8, 8))
    )


class Assisted(nn.Module):
    """A classifier with an auxiliary head, which only some calls use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(8, 3)
        self.assistant = nn.Linear(8, 3)

    def forward(self, x: Tensor, assisted: bool = False) -> Tensor:
        features = self.body(x).flatten(1)
        return self.head(features) + self.assistant(features) if assisted else self.head(features)


def assisted() -> aw.Elastic:
    return aw.Elastic(Assisted().double(), (IMAGES[:1], True), widths=WIDTHS)


def switchable() -> aw.Elastic:
    """Every width has affine pairs of its own; statistics stay, as halves of a batch have others than the whole."""
    model = RandomNet(("batchnorm", "dense", "batchnorm", "plain"), (8, 4, 8))
    net = elastic(model, norm="switchable")
    net.calibrate([IMAGES], widths=WIDTHS, batches=1)
    return net.eval()


def packed() -> aw.Elastic:
    """Queries, keys and values in one projection: whole heads are kept of each."""
    from timm.models import VisionTransformer

    return elastic(
        VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=4, num_classes=3)
    )


class Blocks(nn.Module):
    """A residual network of blocks that may run again in the backward pass."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module], checkpointed: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.ModuleList(
            wrap(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 8, 1)))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 3)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x))
        return self.head(x.mean((2, 3)))


def blocks() -> aw.Elastic:
    return elastic(Blocks(lambda block: block, checkpointed=False))


def checkpointed_blocks() -> aw.Elastic:
    return elastic(Blocks(lambda block: block, checkpointed=True))


def wrapped_blocks() -> aw.Elastic:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return elastic(Blocks(checkpoint_wrapper, checkpointed=False))


def classifier() -> aw.Elastic:
    """A transformer of Hugging Face; what it returns has a `loss`."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=4,
        num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = ViTForImageClassification(config).double()
    return aw.Elastic(model, {"pixel_values": IMAGES[:1]}, widths=WIDTHS)


# --- losses -------------------------------------------------------------------------------------------------------------


def loss_at(net: Callable[..., Any], width: float, x: Tensor) -> Tensor:
    """The loss of one width; `net` is called with the width."""
    return net(width, x).square().mean()


def assisted_loss_at(net: Callable[..., Any], width: float, x: Tensor) -> Tensor:
    return net(width, x, assisted=width == 1.0).square().mean()


def features_loss_at(net: Callable[..., Any], width: float, x: Tensor) -> Tensor:
    """By another entry of the model than its forward."""
    view: Any = net.net.at(width)
    return view.forward_features(x).square().mean()


def labels_of(x: Tensor) -> Tensor:
    return (x.mean((1, 2, 3)) * 100).long() % 3


def labelled_loss_at(net: Callable[..., Any], width: float, x: Tensor) -> Tensor:
    return net(width, pixel_values=x, labels=labels_of(x)).loss


class Sum(nn.Module):
    """The sum of the losses of several widths, as one forward."""

    def __init__(self, net: aw.Elastic, loss_at: Callable[..., Tensor] = loss_at) -> None:
        super().__init__()
        self.net, self.loss_at = net, loss_at

    def forward(self, x: Tensor) -> Tensor:
        return sum((self.loss_at(AtWidth(self.net), w, x) for w in WIDTHS), torch.zeros((), dtype=x.dtype))


def optimiser_of(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


# --- training behind wrappers -------------------------------------------------------------------------------------------


def shares() -> list[Tensor]:
    """This process's part of every global batch."""
    size = BATCH // dist.get_world_size()
    return [x.split(size)[dist.get_rank()] for x in IMAGES.split(BATCH)]


def ddp_sum(net: aw.Elastic, case: Case) -> None:
    net.at(0.5)  # what DDP copies from the first process arrives in views that exist
    step = DistributedDataParallel(Sum(net, case.loss_at))
    optimiser = optimiser_of(net.parameters())
    for x in shares():
        optimiser.zero_grad()
        step(x).backward()
        optimiser.step()


def ddp_no_sync(net: aw.Elastic, case: Case, **options: Any) -> None:
    at_width = DistributedDataParallel(AtWidth(net), **options)
    optimiser = optimiser_of(net.parameters())
    for x in shares():
        optimiser.zero_grad()
        for w in WIDTHS:
            with contextlib.nullcontext() if w == WIDTHS[-1] else at_width.no_sync():
                case.loss_at(at_width, w, x).backward()
        optimiser.step()


def ddp_no_sync_unused(net: aw.Elastic, case: Case) -> None:
    ddp_no_sync(net, case, find_unused_parameters=True)


def ddp_unused(net: aw.Elastic, case: Case) -> None:
    """Every pass is synchronised: means of means are means."""
    at_width = DistributedDataParallel(AtWidth(net), find_unused_parameters=True)
    optimiser = optimiser_of(net.parameters())
    for x in shares():
        optimiser.zero_grad()
        for w in WIDTHS:
            case.loss_at(at_width, w, x).backward()
        optimiser.step()


def ddp_reached_last(net: aw.Elastic, case: Case) -> None:
    """The last pass reaches what single widths own, so nothing is unused."""
    step = DistributedDataParallel(Sum(net, case.loss_at))
    optimiser = optimiser_of(net.parameters())
    for x in shares():
        optimiser.zero_grad()
        with step.no_sync():
            (step(x) / 2).backward()
        (step(x) / 2).backward()
        optimiser.step()


def past_ddp(net: aw.Elastic, case: Case) -> None:
    """What is called past the wrapper is not synchronised."""
    step = DistributedDataParallel(Sum(net, case.loss_at))
    optimiser = optimiser_of(net.parameters())
    for x in shares():
        optimiser.zero_grad()
        step.module(x).backward()
        optimiser.step()


def lightning(net: aw.Elastic, case: Case, manual: bool = False, strategy: str = "ddp") -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.automatic_optimization = not manual

        def training_step(self, batch: Sequence[Tensor], number: int) -> Tensor | None:
            losses = (case.loss_at(AtWidth(self.net), w, batch[0]) for w in WIDTHS)
            if not manual:
                return sum(losses, torch.zeros(()))
            optimiser: Any = self.optimizers()
            optimiser.zero_grad()
            for w, loss in zip(WIDTHS, losses, strict=True):
                last = w == WIDTHS[-1]
                with contextlib.nullcontext() if last else self.trainer.strategy.block_backward_sync():
                    self.manual_backward(loss)
            optimiser.step()
            return None

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimiser_of(self.parameters())

    images = TensorDataset(IMAGES)
    loader = DataLoader(
        images, BATCH // dist.get_world_size(), sampler=DistributedSampler(images, shuffle=False)
    )
    pl.Trainer(
        accelerator="cpu", devices=dist.get_world_size(), strategy=strategy, max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(Module(), loader)  # fmt: skip


def lightning_manual(net: aw.Elastic, case: Case) -> None:
    lightning(net, case, manual=True)


def lightning_manual_unused(net: aw.Elastic, case: Case) -> None:
    lightning(net, case, manual=True, strategy="ddp_find_unused_parameters_true")


def accelerate(net: aw.Elastic, case: Case) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    loader = DataLoader(TensorDataset(IMAGES), batch_size=BATCH // accelerator.num_processes)
    at_width, optimiser, loader = accelerator.prepare(AtWidth(net), optimiser_of(net.parameters()), loader)
    for (x,) in loader:
        optimiser.zero_grad()
        for w in WIDTHS:
            with contextlib.nullcontext() if w == WIDTHS[-1] else accelerator.no_sync(at_width):
                accelerator.backward(case.loss_at(at_width, w, x))
        optimiser.step()


class LabelledSum(nn.Module):
    """What the Trainer of Hugging Face calls: the inputs by name, and a dict with the loss."""

    def __init__(self, net: aw.Elastic) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = [self.net.at(w)(pixel_values=pixel_values, labels=labels) for w in WIDTHS]
        return {"loss": sum(o.loss for o in outputs), "logits": outputs[-1].logits}


def trainer(net: aw.Elastic, case: Case) -> None:
    """An epoch is one batch of all, so that the order of the images is of no account."""
    from transformers import Trainer, TrainingArguments

    data: Any = [
        {"pixel_values": x, "labels": y}
        for x, y in zip(IMAGES[:BATCH], labels_of(IMAGES[:BATCH]), strict=True)
    ]
    arguments = TrainingArguments(
        tempfile.mkdtemp(), num_train_epochs=STEPS, per_device_train_batch_size=BATCH // dist.get_world_size(), max_grad_norm=0.0,
        use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    optimiser = optimiser_of(net.parameters())
    constant = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
    Trainer(LabelledSum(net), arguments, train_dataset=data, optimizers=(optimiser, constant)).train()


def fsdp(net: aw.Elastic, case: Case) -> None:
    for block in net.model.blocks:
        fully_shard(block)
    fully_shard(net.model)
    if case.loss_at is features_loss_at:
        register_fsdp_forward_method(net.model, "forward_features")
    optimiser = optimiser_of(net.parameters())
    for x in shares():
        optimiser.zero_grad()
        for w in WIDTHS:
            net.model.set_requires_gradient_sync(w == WIDTHS[-1])
            case.loss_at(AtWidth(net), w, x).backward()
        optimiser.step()


# --- cases --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """A way to train a network.

    Attributes:
        build: the network; processes draw other weights if the wrapper copies those of the first one.
        train: trains it behind a wrapper.
        loss_at: of one width.
        copied: whether the wrapper copies the weights of the first process.
        batches: of all processes, by step.
    """

    build: Callable[[], aw.Elastic]
    train: Callable[[aw.Elastic, Case], None]
    loss_at: Callable[..., Tensor] = loss_at
    copied: bool = True
    batches: Sequence[Tensor] = IMAGES.split(BATCH)


CASES = {
    "ddp-sum": Case(build=gathered, train=ddp_sum),
    "ddp-no_sync": Case(build=gathered, train=ddp_no_sync),
    "ddp-unused": Case(build=assisted, train=ddp_unused, loss_at=assisted_loss_at),
    "ddp-no_sync-unused": Case(build=assisted, train=ddp_no_sync_unused, loss_at=assisted_loss_at),
    "ddp-switchable-unused": Case(build=switchable, train=ddp_no_sync_unused, copied=False),
    "ddp-switchable-sum": Case(build=switchable, train=ddp_reached_last, copied=False),
    "ddp-packed": Case(build=packed, train=ddp_no_sync),
    "lightning": Case(build=gathered, train=lightning),
    "lightning-manual": Case(build=gathered, train=lightning_manual),
    "lightning-switchable": Case(build=switchable, train=lightning, copied=False),
    "lightning-manual-switchable": Case(build=switchable, train=lightning_manual_unused, copied=False),
    "accelerate": Case(build=gathered, train=accelerate),
    "trainer": Case(
        build=classifier, train=trainer, loss_at=labelled_loss_at, batches=STEPS * [IMAGES[:BATCH]]
    ),
    "fsdp": Case(build=blocks, train=fsdp, copied=False),
    "fsdp-checkpoint": Case(build=checkpointed_blocks, train=fsdp, copied=False),
    "fsdp-checkpoint_wrapper": Case(build=wrapped_blocks, train=fsdp, copied=False),
    "fsdp-packed": Case(build=packed, train=fsdp, copied=False),
    "fsdp-features": Case(build=packed, train=fsdp, loss_at=features_loss_at, copied=False),
}
UNSYNCHRONISED = {"past-ddp": Case(build=gathered, train=past_ddp)}


def weights(net: aw.Elastic) -> dict[str, Tensor]:
    full = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in net.named_parameters()}
    return {n: p.detach().clone() for n, p in full.items()}


def reference(name: str) -> dict[str, Tensor]:
    """The weights after three steps of one process without a wrapper."""
    case = CASES[name]
    torch.manual_seed(0)
    net = case.build()
    optimiser = optimiser_of(net.parameters())
    for x in case.batches:
        optimiser.zero_grad()
        for w in WIDTHS:
            case.loss_at(AtWidth(net), w, x).backward()
        optimiser.step()
    return weights(net)


def train(out: Path, names: Sequence[str]) -> None:
    """As one process of several: train the networks of these cases, and write their weights."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    for name in names:
        case = {**CASES, **UNSYNCHRONISED}[name]
        torch.manual_seed(rank if case.copied else 0)
        net = case.build()
        case.train(net, case)
        torch.save(weights(net), out / f"{name}-{world}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    for library in ("accelerate", "lightning.pytorch", "timm", "transformers"):
        importlib.import_module(library)  # once, not in every process
    directory = Path(sys.argv[1])
    fork(lambda: train(directory, [*CASES, *UNSYNCHRONISED]), world=2)
    fork(lambda: train(directory, ["ddp-no_sync"]), world=4)
