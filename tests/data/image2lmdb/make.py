"""Writes pyarrow-VERSION.zip: the records of an Image2LMDB file, by a pyarrow that still had `serialize` (to 11).

Run once in an environment with that pyarrow (and nothing else): python make.py. Images are 8 x 8, red 80 times the
class, green the number, so tests can tell them apart. Records under refused/ are no pairs.
"""

import warnings
import zipfile
from pathlib import Path

import pyarrow

warnings.simplefilter("ignore")  # that it is deprecated
LABELS = [0, 0, 1, 1, 2, 2]


def image(number, label):
    return b"P6 8 8 255\n" + bytes([80 * label, number, 7]) * 64


def main():
    values = {str(i): (image(i, label), label) for i, label in enumerate(LABELS)}
    values["__keys__"] = [str(i).encode() for i in range(len(LABELS))]
    values["__len__"] = len(LABELS)
    values["refused/text"] = ("text", 1)
    values["refused/three"] = (b"image", 1, 2)
    values["refused/dictionary"] = {"image": b"image"}
    path = Path(__file__).with_name("pyarrow-" + pyarrow.__version__ + ".zip")
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in values.items():
            content = pyarrow.serialize(value).to_buffer().to_pybytes()
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
