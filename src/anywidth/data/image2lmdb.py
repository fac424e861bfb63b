"""LMDB files in the layout of Image2LMDB, which many ImageNet trainings use."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from anywidth.data.python_values import decoder
from anywidth.data.records import Records
from anywidth.data.sources import decoded
from anywidth.errors import DataError

_LENGTH, _KEYS = b"__len__", b"__keys__"


def is_image2lmdb(path: Path) -> bool:
    """Whether an LMDB file has one of the layout's own records.

    Raises:
        DataError: no such file, or a damaged one.
    """
    records = Records(path)
    return any(records.get(key) is not None for key in (_LENGTH, _KEYS))


class Image2LMDB:
    """Pairs (encoded image, class) under the keys "0", "1", ..., written by pickle, msgpack or `pyarrow.serialize`.

    Nothing is unpickled. The first and the last record are read at once, so that a wrong file fails early.

    Args:
        path: a file, or a folder with data.mdb.
        classes: how many; the file does not say, so their names are "0", "1", ...

    Raises:
        DataError: no such file, a damaged or incomplete one, or other values.
    """

    def __init__(self, path: Path, classes: int) -> None:
        self.path = path
        self.classes = tuple(map(str, range(classes)))
        self.records = Records(path)
        length = self._layout_record(_LENGTH)
        self._layout_record(_KEYS)
        self._decode = decoder(length)
        self.count = self._length(length)
        for index in (0, self.count - 1):
            self.pair(index)

    def _layout_record(self, key: bytes) -> bytes:
        record = self.records.get(key)
        if record is None:
            raise DataError(
                f"{self.path}: has no record {key.decode()}; a file in the layout of Image2LMDB has __len__ and __keys__, "
                "written last: write it again, to its end"
            )
        return record

    def _length(self, content: bytes) -> int:
        try:
            length = self._decode(content)
        except (ValueError, DataError) as error:
            raise DataError(f"{self.path}, record __len__: {error}") from None
        # Two of the records are the layout's own: __len__ and __keys__.
        if type(length) is not int or length < 1 or length != self.records.count - 2:
            raise DataError(
                f"{self.path}: its record __len__ says {length!r}, but it holds {self.records.count - 2} images; "
                "write it again, to its end"
            )
        return length

    def _pair(self, index: int) -> tuple[bytes, int]:
        content = self.records.get(b"%d" % index)
        if content is None:
            raise ValueError("no such record")
        try:
            value = self._decode(content)
        except DataError as error:
            raise DataError(f"{self.place(index)}: {error}") from None
        match value:
            case [bytes(image), int(label)] if not isinstance(label, bool):
                self._check(index, label)
                return image, label
        raise ValueError(
            f"a value of type {type(value).__name__}, expected the pair (bytes of an image, class)"
        )

    def _check(self, index: int, label: int) -> None:
        if not 0 <= label < len(self.classes):
            raise DataError(
                f"{self.place(index)}: is of class {label}, expected 0 to {len(self.classes) - 1}; set the number of "
                "classes (data.classes, or --classes of `anywidth pack`)"
            )

    def pair(self, index: int) -> tuple[bytes, int]:
        """Encoded image and class.

        Raises:
            DataError: the record cannot be read.
        """
        try:
            return self._pair(index)
        except ValueError as error:
            raise DataError(
                f"{self.place(index)}: cannot be read ({error}); write the file again, or, with the version of pyarrow "
                "that wrote it, rewrite each value as pickle.dumps(pyarrow.deserialize(value)): see docs/data.md"
            ) from None

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[Image.Image, int]:
        content, label = self._pair(index)
        return decoded(content), label

    def place(self, index: int) -> str:
        return f"{self.path}, record {index}"
