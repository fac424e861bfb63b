"""WebDataset shards: tar files with KEY.jpg and KEY.cls side by side.

Training needs an order that is fixed by a seed and the same whatever the number of processes, so shards are not
streamed: the first opening lists what each tar file holds, and images are read from their places in it.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import torch
from PIL import Image

from anywidth.data.sources import decoded
from anywidth.errors import DataError
from anywidth.files import write_json

_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "ppm"}
_FORMAT = "anywidth.shards/1"


class Shards:
    """All images of the shards PREFIX*.tar in a folder, in the order of their names.

    The list of their places is kept in PREFIX.index.json beside them, where the folder can be written.

    Raises:
        DataError: no shards, or one that cannot be read or holds an image without a class.
    """

    def __init__(self, root: Path, prefix: str) -> None:
        self.shards = sorted(root.glob(f"{prefix}*.tar"))
        if not self.shards:
            raise DataError(f"{root}: no shards {prefix}*.tar here; expected those and val*.tar or test*.tar")
        # (images, 4): shard, offset, size, class.
        self.rows = torch.tensor(_index(self.shards, root / f"{prefix}.index.json"))
        names = root / "classes.txt"
        count = int(self.rows[:, 3].max()) + 1
        self.classes = (
            tuple(names.read_text().split("\n")[:count]) if names.exists() else tuple(map(str, range(count)))
        )

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> tuple[Image.Image, int]:
        shard, offset, size, label = self.rows[index].tolist()
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        return decoded(content), label

    def place(self, index: int) -> str:
        shard, offset, _, _ = self.rows[index].tolist()
        return f"{self.shards[shard]}, byte {offset}"


def _index(shards: list[Path], index_path: Path) -> list[list[int]]:
    """[shard, offset, size, class] of every image."""
    # Listing reads the header of every file in every shard, so the list is kept; a shard of another size or date makes it anew.
    fingerprints = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in shards]
    if index_path.exists():
        try:
            saved = json.loads(index_path.read_text())
            if saved["format"] == _FORMAT and saved["shards"] == fingerprints:
                return saved["rows"]
        except (ValueError, KeyError, TypeError):
            pass  # made again below
    rows = [row for shard_index, path in enumerate(shards) for row in _shard(shard_index, path)]
    if not rows:
        raise DataError(f"{shards[0].parent}: the shards hold no images")
    if os.access(index_path.parent, os.W_OK):
        write_json(index_path, {"format": _FORMAT, "shards": fingerprints, "rows": rows})
    return rows


def _shard(shard_index: int, path: Path) -> list[list[int]]:
    # "n01/a.jpg" at byte 512 with 9000 bytes and "n01/a.cls" with the text "3" -> [shard, 512, 9000, 3]. Offsets point into
    # the tar file, which is never unpacked.
    spans: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                name, _, ending = base.partition(".")
                key = f"{folder}/{name}"
                if ending.lower() in _IMAGES:
                    spans[key] = (member.offset_data, member.size)
                elif ending == "cls":
                    file = tar.extractfile(member)
                    labels[key] = int(file.read()) if file is not None else -1
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a shard ({error}); fetch it again") from None
    for key in spans:
        if labels.get(key, -1) < 0:
            raise DataError(
                f"{path}: the image {key.lstrip('/')} has no class: expected a number in {key.lstrip('/')}.cls"
            )
    return [[shard_index, *span, labels[key]] for key, span in spans.items()]
