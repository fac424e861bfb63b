"""The width policy "joslim" of a run: what proposes, and on which images widths are measured."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from anywidth import data, interop, search
from anywidth.elastic import Elastic
from anywidth.errors import DataError, RecipeError
from anywidth.import_path import call_with
from anywidth.seeds import generator
from anywidth.space.width import Width
from anywidth.train import Draw, Drawn, Proposer, distributed, evaluate, policies
from anywidth.workflows.classifier_run import ClassifierRun
from anywidth.workflows.naming import front_widths

_ORDER_SEED = 30


def joined_processes() -> search.Together:
    """The processes that `torchrun` started, for a search."""
    return search.Together(
        rank=distributed.rank(),
        world=distributed.world(),
        gathered=distributed.gathered,
        from_first=distributed.from_first,
    )


def searching_policy(run: ClassifierRun, net: Elastic) -> Draw:
    """The policy of a recipe whose policy searches: "joslim", or the user's own, which takes what `Joslim` takes.

    Raises:
        RecipeError: fewer steps than until the first proposal of the model.
        CheckpointError: a pool that cannot be read.
        WidthError: impossible bounds, or a label of another width that hides one of the ends.
    """
    section, low = run.recipe.joslim, run.recipe.narrowest
    assert section is not None
    _check_steps(run)
    policies.check_ratios(net, (low, 1.0))
    if section.mode == "joint":
        proposer = search.Bayes(
            net,
            kind=section.cost,
            batch=section.num_sampled_arch,
            low=low,
            high=section.upper_channel,
            acquisition=section.acquisition,
            beta=section.beta,
            reference=section.baseline,
            prior_points=section.prior_points,
            sampling=section.sampling,
            ard=section.ard,
            history=section.history,
            seed=run.recipe.seed,
            together=joined_processes(),
        )
        batches = held_out_batches(run, section.images, section.batch_size)
        return _made(run, proposer, shared_quality(net, batches, "loss"))
    proposer = Drawn(
        net.space,
        count=section.num_sampled_arch,
        low=low,
        high=section.upper_channel,
        pool=None if section.pool is None else pool_widths(Path(section.pool), net),
        seed=run.recipe.seed,
    )
    return _made(run, proposer, lambda widths: ())


def _made(
    run: ClassifierRun, proposer: Proposer, measure: Callable[[Sequence[Width]], Sequence[float]]
) -> Draw:
    section, widths = run.recipe.joslim, run.recipe.widths
    assert section is not None
    values = {"proposer": proposer, "measure": measure, "tau": section.tau, "low": run.recipe.narrowest}
    policy = policies.policy_of(widths.policy)
    return call_with("width policy", widths.policy, policy, values, widths.options)


def _check_steps(run: ClassifierRun) -> None:
    section, config = run.recipe.joslim, run.recipe.train
    assert section is not None
    steps = config.epochs * (len(run.train_batches(0, 0)) // config.accumulate)
    if section.tau > steps:
        raise RecipeError(
            f"joslim.tau = {section.tau}: the whole training has {steps} steps, so widths would be proposed once only; lower it"
        )
    proposed = -(-steps // section.tau) * section.num_sampled_arch
    if section.mode == "joint" and proposed <= section.prior_points + 1:
        raise RecipeError(
            f"joslim: {steps} steps with tau = {section.tau} propose {proposed} widths, all of them prior points "
            f"(joslim.prior_points = {section.prior_points}); lower one of the two"
        )


def pool_widths(path: Path, net: Elastic) -> list[Width]:
    """The widths of a front, or of a sample pool of the published code (*.pt).

    Raises:
        CheckpointError: no such file, another kind of one, or the front of another network.
    """
    if path.suffix == ".pt":
        return list(interop.joslim.sample_pool(path, net))
    return list(front_widths(path, net).values())


def held_out_batches(run: ClassifierRun, images: int, batch_size: int) -> list[Any]:
    """Batches of held-out training images that every process evaluates its share of the widths on.

    They are mixed: folders have one class after the other, and batch norms would see one class at a time.

    Raises:
        DataError: the run held none out.
    """
    images_held_out = run.splits.held_out
    if images_held_out is None:
        raise DataError(
            "search: the run held no images out, and test images must not choose widths; train with data.held_out=1000 or more"
        )
    count = min(images, len(images_held_out))
    size = min(batch_size, count)
    order = torch.randperm(len(images_held_out), generator=generator(run.recipe.data.seed, _ORDER_SEED))
    # 1,050 images in batches of 250: the last 50 are left out, as a batch's statistics would be noisier there.
    indices = images_held_out.indices[order[: count - count % size]]
    subset = data.ImageSet(
        images_held_out.source, indices, images_held_out.transform, images_held_out.unreadable, replace=False
    )
    return list(data.eval_batches(subset, run.recipe.data, batch_size=size))


def shared_quality(
    net: Elastic, batches: Sequence[Any], objective: str
) -> Callable[[Sequence[Width]], list[float]]:
    """Widths -> losses or errors with the statistics of each batch, shared out over the processes."""
    return lambda widths: search.shared(local_quality(net, batches, objective), widths, joined_processes())


def local_quality(
    net: Elastic, batches: Sequence[Any], objective: str
) -> Callable[[Sequence[Width]], list[float]]:
    """Widths -> losses ("loss") or errors ("error") of this process."""

    def quality(widths: Sequence[Width]) -> list[float]:  # one after the other, so that few views are alive
        scores = [evaluate(net, batches, [width], norm="batch", shared=False)[0] for width in widths]
        return [score.loss if objective == "loss" else 1 - score.accuracy for score in scores]

    return quality
