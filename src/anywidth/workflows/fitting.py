"""Training of a task into a run directory, unless that is done."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from anywidth.files import write_json
from anywidth.train import distributed, fit_
from anywidth.workflows.recipe_task import OpenRun, RecipeTask
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.run_files import NET, RESULTS


def train_into(path: Path, task: RecipeTask[Any], reporter: Reporter) -> None:
    """Train into `path`, unless that is done; an interrupted training goes on."""
    results = path / RESULTS
    # Asked of the first process, so that all of them take the same branch, whatever their file systems show.
    if distributed.from_first(results.exists):
        reporter.say(f"{path}: already trained; these are its results")
        return
    summary = _fit(task, task.open(path), reporter)
    if distributed.rank() == 0:
        write_json(results, summary)
    distributed.barrier()


def _fit(task: RecipeTask[Any], run: OpenRun, reporter: Reporter) -> dict[str, Any]:
    """Train, calibrate, evaluate and save the network of a run; the results."""
    task.prepare_device_(run.device)
    net = task.new_net(run, reporter)
    config, policy = task.fit_config(), task.policy(run, net)
    # Nothing is written before the network could be built: a mistake in a recipe leaves no directory behind.
    if distributed.rank() == 0:
        task.claim(run.path)
    distributed.barrier()
    with reporter.training() as report:
        seconds = fit_(
            net,
            run.train_batches,
            policy,
            config,
            seed=run.recipe.seed,
            run=run.path,
            report=report,
            scores=(lambda measured_net: task.scores(run, measured_net)) if config.eval_every else None,
            task=task.losses(),
        )
    rows, network_facts = task.finish_(run, net, policy)
    if distributed.rank() == 0:
        net.save(run.path / NET)
    return {
        "model": task.model_name,
        "rows": rows,
        **network_facts,
        "seconds": seconds,
        "seed": run.recipe.seed,
        "device": str(run.device),
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        **task.data_facts(run),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
