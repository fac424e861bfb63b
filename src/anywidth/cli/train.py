"""anywidth train: train a recipe, or go on with an interrupted training."""

import os
import platform
from pathlib import Path
from typing import Any

import torch
import typer

from anywidth import recipe as recipes
from anywidth import train as training
from anywidth.cli import names
from anywidth.cli.console import print_table, say, training_progress
from anywidth.cli.results import rows_as_text
from anywidth.cli.run import NET, RESULTS, Run, check_free, claim, new_net, open_run, read_results
from anywidth.elastic import Elastic
from anywidth.files import write_json
from anywidth.train import distributed, policies


def train(
    recipe: Path = typer.Argument(metavar="RECIPE", help="YAML file of the recipe."),
    overrides: list[str] = typer.Argument(
        None, metavar="KEY=VALUE", help="Change keys, like train.epochs=10."
    ),
    run: Path = typer.Option(
        None,
        "--run",
        "--run-dir",  # torchrun takes --run for an abbreviation of an option of its own
        help="Run directory; under torchrun write --run-dir.  [default: runs/ and the recipe's name]",
    ),
) -> None:
    """Train RECIPE; the same command again goes on after an interruption."""
    settings = recipes.load(recipe, overrides or ())
    path = run or Path("runs") / recipe.stem
    check_free(path, settings)
    results = path / RESULTS
    with distributed.processes(names.device(settings.device)):
        if distributed.from_first(results.exists):
            say(f"{path}: already trained; these are its results")
        else:
            found = _train(open_run(path, settings))
            if distributed.rank() == 0:
                write_json(results, found)
        distributed.barrier()
    if distributed.rank() == 0:
        print_table(f"{path}", rows_as_text(read_results(results)["rows"]))


def _train(run: Run) -> dict[str, Any]:
    if run.device.type == "cuda":
        torch.cuda.set_device(run.device)
        torch.backends.cudnn.deterministic = True
    net = new_net(run)
    if distributed.rank() == 0:
        claim(run)
    distributed.barrier()
    widths, settings = run.recipe.widths, run.recipe.train
    draw = policies.make(
        widths.rule,
        net,
        low=widths.min,
        high=widths.max,
        random=widths.random,
        grid=widths.grid,
        per_group=widths.per_group,
        options=widths.options,
    )
    scores = run.accuracies if settings.eval_every else None
    with training_progress() as report:
        seconds = training.fit_(
            net,
            run.train_batches,
            draw,
            settings,
            seed=run.recipe.seed,
            run=run.path,
            report=report,
            scores=scores,
        )
    return _finish(run, net, seconds)


def _finish(run: Run, net: Elastic, seconds: float) -> dict[str, Any]:
    listed = list(net.widths)
    if run.recipe.elastic.norm == "shared":  # switchable norms keep the statistics they were trained with
        run.calibrate_(net, listed)
    rows = run.results(net, listed, listed)
    if distributed.rank() == 0:
        net.save(run.path / NET)
    return {
        "model": run.recipe.model.name,
        "rows": rows,
        "seconds": seconds,
        "seed": run.recipe.seed,
        "device": str(run.device),
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "corrupt_images": run.splits.corrupt(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
