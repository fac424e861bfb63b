"""anywidth prune: cut channels out of a trained network."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import ConsoleReporter, print_tables


def prune_command(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    ratio: float = typer.Option(None, help="Share of the channels to remove, like 0.7."),
    budget: str = typer.Option(None, help="Or as many as it takes: macs=50%, params=2M or latency=5ms."),
    criterion: str = typer.Option(
        None,
        help="bn_scale, l1, l2, taylor, fpgm, lamp, activation, random, uniform, or your own: package.module:NAME.  [default: bn_scale]",
    ),
    rule: str = typer.Option(None, help="Ties as published: network-slimming or torch7."),
    scope: str = typer.Option(None, help="global, layer or isomorphic.  [default: global]"),
    streams: str = typer.Option(None, help="coupled or selection.  [default: coupled]"),
    max_per_layer: float = typer.Option(None, help="Largest share of a layer that may go.  [default: 1]"),
    minimum: int = typer.Option(None, help="Fewest channels of a layer that stay.  [default: 1]"),
    round_to: int = typer.Option(None, help="Kept channels are multiples of this.  [default: 1]"),
    empty: str = typer.Option(
        None, help="Layers that lose everything: keep, remove or error.  [default: keep]"
    ),
    fold: bool = typer.Option(
        None, "--fold/--no-fold", help="Make up for the shifts of removed channels.  [default: fold]"
    ),
    calibrate: bool = typer.Option(
        None, "--calibrate/--no-calibrate", help="Collect batch-norm statistics anew.  [default: no]"
    ),
    batches: int = typer.Option(
        8, min=1, help="Training batches for criteria that need some, as taylor and activation."
    ),
    out: Path = typer.Option(None, help="Folder for the pruned network.  [default: RUN/pruned]"),
) -> None:
    """Prune a finished RUN. Options that are not given come from the section `prune` of its recipe.

    Train what is left with the same recipe and model.pruned=FOLDER.
    """
    options = workflows.PruneOptions(
        ratio=ratio, budget=budget, criterion=criterion, rule=rule, scope=scope, streams=streams, max_per_layer=max_per_layer,
        minimum=minimum, round_to=round_to, empty=empty, fold=fold, calibrate=calibrate, batches=batches,
    )  # fmt: skip
    print_tables(workflows.prune(run, options, out=out, reporter=ConsoleReporter()).tables)
