"""Folders of images, or LMDB files of others, as LMDB files of ours."""

from __future__ import annotations

from pathlib import Path

from anywidth import data
from anywidth.errors import DataError
from anywidth.workflows.reporter import SILENT, Reporter

_PARTS = ("train", "val", "test")


def pack(
    root: str | Path, out: str | Path, *, classes: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Path]:
    """Pack images, as they are, for `data.name = lmdb`.

    Args:
        root: folder with train/CLASS/FILE and val/ or test/ alike, or with train.lmdb and val.lmdb of Image2LMDB.
        out: folder for train.lmdb and val.lmdb.
        classes: number of classes of Image2LMDB files.

    Returns:
        Part ("train", "val", "test") -> file.

    Raises:
        DataError: no images, or files that cannot be read.
    """
    root, out = Path(root), Path(out)
    folders = {name: data.Folder(root / name) for name in _PARTS if (root / name).is_dir()}
    if "train" in folders and classes is not None:
        raise DataError(f"--classes {classes}: the folders in {root / 'train'} are the classes; leave it out")
    sources = folders if "train" in folders else _lmdb_sources(root, out, classes)
    out.mkdir(parents=True, exist_ok=True)
    targets = {name: out / f"{name}.lmdb" for name in sources}
    for name, source in sources.items():
        _pack_part(source, targets[name], reporter)
    return targets


def _pack_part(source: data.Folder | data.Image2LMDB, target: Path, reporter: Reporter) -> None:
    def report(done: int) -> None:
        reporter.say(f"{target}: {done}/{len(source)} images")

    if isinstance(source, data.Folder):
        data.pack(source.paths, source.labels.tolist(), source.classes, target, report)
    else:
        data.repack(source, target, report)


def _lmdb_sources(root: Path, out: Path, classes: int | None) -> dict[str, data.Image2LMDB]:
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
