"""anywidth pack: folders of images as LMDB files."""

from pathlib import Path

import typer

from anywidth import data
from anywidth.cli.console import say
from anywidth.errors import DataError


def pack(
    root: Path = typer.Argument(metavar="ROOT", help="Folder with train/CLASS/FILE and val/ or test/ alike."),
    out: Path = typer.Argument(metavar="OUT", help="Folder for train.lmdb and val.lmdb."),
) -> None:
    """Pack the images of ROOT, as they are, for `data.name = lmdb`."""
    parts = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" not in parts:
        raise DataError(f"{root}: no folder train here; expected train/CLASS/FILE and val/CLASS/FILE")
    folders = {name: data.Folder(path) for name, path in parts.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, folder in folders.items():
        target = out / f"{name}.lmdb"

        def report(done: int, target: Path = target, total: int = len(folder)) -> None:
            say(f"{target}: {done}/{total} images")

        data.pack(folder.paths, folder.labels.tolist(), folder.classes, target, report)
