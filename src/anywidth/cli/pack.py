"""anywidth pack: folders of images, or LMDB files of others, as LMDB files of ours."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import ConsoleReporter


def pack_command(
    root: Path = typer.Argument(
        metavar="ROOT",
        help="Folder with train/CLASS/FILE and val/ or test/ alike, or with train.lmdb and val.lmdb of Image2LMDB.",
    ),
    out: Path = typer.Argument(metavar="OUT", help="Folder for train.lmdb and val.lmdb."),
    classes: int | None = typer.Option(None, min=2, help="Number of classes of Image2LMDB files."),
) -> None:
    """Pack the images of ROOT, as they are, for `data.name = lmdb`."""
    workflows.pack(root, out, classes=classes, reporter=ConsoleReporter())
