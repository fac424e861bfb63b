"""Values that Python programs wrote, read without running what they may contain: bytes, whole numbers and pairs."""

from __future__ import annotations

from collections.abc import Callable
from pickletools import genops
from typing import Any

from anywidth.data.records import library
from anywidth.errors import DataError

_EXTRA = "image2lmdb"
_NO_OBJECTS = bytes(16)  # counts of tensors, sparse tensors, arrays and buffers beside the values
_VALUES = {
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BININT", "BININT1", "BININT2", "LONG1",
}  # fmt: skip
_SHAPE = {
    "PROTO", "FRAME", "MARK", "EMPTY_LIST", "APPENDS", "TUPLE", "TUPLE2", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP",
}  # fmt: skip


def decoder(content: bytes) -> Callable[[bytes], Any]:
    """How values like this one are read: a function of their bytes.

    It gives a number, bytes or a sequence of these; raises ValueError for what cannot be read, and DataError for a
    pickle that names code and for a package that is missing.
    """
    # 0x80 is the opcode PROTO, the first byte of every pickle from protocol 2 on.
    if content[:1] == b"\x80":
        return _pickle
    return _arrow if content[:12] == _NO_OBJECTS[:12] else _msgpack


def _pickle(content: bytes) -> Any:
    """Lists the operations of the pickle and carries out none."""
    # pickle.dumps((b"ab", 3), 4) is PROTO, FRAME, SHORT_BINBYTES, MEMOIZE, BININT1, TUPLE2, MEMOIZE, STOP. The values are
    # pushed in order, so collecting them rebuilds a flat pair; GLOBAL or REDUCE, which could call something, are refused.
    values = []
    for operation, value, _ in genops(content):
        if operation.name in _VALUES:
            values.append(value)
        elif operation.name not in _SHAPE:
            raise DataError(
                f"the pickle has the operation {operation.name}, expected bytes and whole numbers alone, of protocol 3 or "
                "later; it may be made to run code, was not unpickled, and should not be elsewhere"
            )
    return values[0] if len(values) == 1 else values


def _msgpack(content: bytes) -> Any:
    return library("msgpack", _EXTRA).unpackb(content, raw=True)  # raw: old writers have no type for bytes


def _arrow(content: bytes) -> Any:
    """`pyarrow.serialize`, which is gone, wrote a stream of one batch: a union with the value."""
    arrow = library("pyarrow", _EXTRA)
    if content[:16] != _NO_OBJECTS:
        raise ValueError("arrays or objects of pyarrow, expected bytes and whole numbers alone")
    try:
        options = arrow.ipc.IpcReadOptions(use_threads=False)  # threads do not survive a fork
        batch = arrow.ipc.open_stream(arrow.py_buffer(content)[16:], options=options).read_next_batch()
        # Offsets in a damaged file could point outside its buffers.
        batch.validate(full=True)
        (value,) = batch.column(0).to_pylist()
    except (arrow.ArrowException, OSError, StopIteration, IndexError) as error:
        raise ValueError(f"not a value of pyarrow: {error or type(error).__name__}") from None
    return value
