"""anywidth train: train a recipe, or go on with an interrupted training."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import ConsoleReporter, print_table, print_tables
from anywidth.workflows.tables import percent, si


def train_command(
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
    summary = workflows.train(recipe, run=run, overrides=overrides or (), reporter=ConsoleReporter())
    print_tables(summary.tables)
    if summary.passes:
        rows = [
            {
                "pass": str(row["pass"]),
                "accuracy": percent(row["accuracy"]),
                "MACs": si(row["macs"]),
                "of the first": f"{row['macs_share']:.3f}",
                "params": si(row["params"]),
                "of the first ": f"{row['params_share']:.3f}",
            }
            for row in summary.passes
        ]
        print_table(f"{summary.run}: after each pruning", rows)
