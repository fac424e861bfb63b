"""anywidth pack: folders of images, or LMDB files of others, as LMDB files of ours."""

from collections.abc import Callable
from pathlib import Path

import typer

from anywidth import data
from anywidth.cli.console import say
from anywidth.errors import DataError

_PARTS = ("train", "val", "test")


def pack(
    root: Path = typer.Argument(
        metavar="ROOT",
        help="Folder with train/CLASS/FILE and val/ or test/ alike, or with train.lmdb and val.lmdb of Image2LMDB.",
    ),
    out: Path = typer.Argument(metavar="OUT", help="Folder for train.lmdb and val.lmdb."),
    classes: int | None = typer.Option(None, min=2, help="Number of classes of Image2LMDB files."),
) -> None:
    """Pack the images of ROOT, as they are, for `data.name = lmdb`."""
    folders = {name: data.Folder(root / name) for name in _PARTS if (root / name).is_dir()}
    if "train" in folders and classes is not None:
        raise DataError(f"--classes {classes}: the folders in {root / 'train'} are the classes; leave it out")
    sources = folders if "train" in folders else _foreign(root, out, classes)
    out.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        target = out / f"{name}.lmdb"
        report = _report(target, len(source))
        if isinstance(source, data.Folder):
            data.pack(source.paths, source.labels.tolist(), source.classes, target, report)
        else:
            data.repack(source, target, report)


def _foreign(root: Path, out: Path, classes: int | None) -> dict[str, data.Image2LMDB]:
    paths = {name: root / f"{name}.lmdb" for name in _PARTS if (root / f"{name}.lmdb").exists()}
    if "train" not in paths:
        raise DataError(
            f"{root}: no folder train here; expected train/CLASS/FILE and val/CLASS/FILE, or train.lmdb and val.lmdb "
            "of Image2LMDB"
        )
    if classes is None:
        raise DataError(f"{paths['train']}: does not say how many classes there are; give --classes")
    if out.resolve() == root.resolve():
        raise DataError(f"{out}: holds the files to read; give another folder")
    return {name: data.Image2LMDB(path, classes) for name, path in paths.items()}


def _report(target: Path, total: int) -> Callable[[int], None]:
    return lambda done: say(f"{target}: {done}/{total} images")
