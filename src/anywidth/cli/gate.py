"""anywidth gate: gates that choose a width for each image."""

from pathlib import Path
from typing import Any

import typer

from anywidth import workflows
from anywidth.cli.console import ConsoleReporter, print_line, print_table
from anywidth.workflows.tables import percent, si


def gate_command(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    overrides: list[str] = typer.Argument(
        None, metavar="KEY=VALUE", help="Change keys of the section gate, like gate.target=60%."
    ),
    target: str = typer.Option(
        None, help="Mean cost to meet: 60% of the widest choice, or 0.33G.  [default: gate.target]"
    ),
    latency: bool = typer.Option(False, "--latency", help="Measure batches of 1, 32 and 256 images too."),
    onnx: bool = typer.Option(False, "--onnx", help="Also write gated.onnx, which runs only what is chosen."),
) -> None:
    """Train gates on a finished RUN, and compare them with its static widths on the test images."""
    result = workflows.gate(
        run,
        overrides=overrides or (),
        target=target,
        latency=latency,
        onnx=onnx,
        reporter=ConsoleReporter(),
    )
    gate, images = result.results["gate"], result.results["images"]
    rows = [_text(row["width"], row) for row in result.results["static"]]
    print_table(f"{run}", [*rows, _text("gated", gate)])
    for index, counts in enumerate(gate["routes"]):
        shares = ", ".join(f"{100 * count / images:.0f} %" for count in counts)
        print_line(f"gate {index + 1}: {shares} of the images to each width")
    for row in result.results.get("latency", ()):
        print_line(
            f"batch {row['batch']}: {1e3 * row['gated']:.2f} ms, {row['ratio']:.2f} of the static networks' mean"
        )
    print_line(result.picture)


def _text(width: str, row: dict[str, Any]) -> dict[str, str]:
    return {
        "width": width,
        "multiply-adds": si(row["macs"]),
        "accuracy": percent(row["accuracy"]),
        "static line": percent(row["static_line"]) if "static_line" in row else "",
    }
