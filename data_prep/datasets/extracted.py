"""Images of a table, each written into a file of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from typing_extensions import Self

from data_prep.images import SUFFIXES
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, telling, write_json

_MARKER = "extracted.json"
_LONGEST = 50  # characters of a name that a table gives: a file name has 255 bytes
_STARTS = {
    b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp", b"II*": ".tif",
    b"MM\0": ".tif",
}  # fmt: skip


class Extracted:
    """A folder of images that were taken out of a table, all that were there before included.

    Parameters
    ----------
    folder : Path
    source : Path
        The table: images of two don't share a folder.

    Attributes
    ----------
    written : int
        Files that were not there, or held something else.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.written = Path(folder), 0
        self._source = {"format": 1, "source": os.path.realpath(source)}

    def __enter__(self) -> Self:
        """Make the folder.

        Raises
        ------
        UserError
            If it is there and holds something else, or can't be written.
        """
        marker = self.folder / _MARKER
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            found = read_json(marker) if marker.is_file() else None
            if found != self._source:
                of = f"images of {found['source']}" if isinstance(found, dict) and "source" in found else "other files"
                raise UserError(f"{self.folder}: holds {of}. Move it away, or choose another --out.")
        else:
            with telling(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_json(marker, self._source)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the folder as it is: it is needed as long as the embedding set."""

    def put(self, place: str, name: str, image: bytes | None) -> str:
        """Write an image, unless it is there, and return its file's name, relative to the folder.

        Parameters
        ----------
        place : str
            What makes the name unique and says where the file goes, as "train-00000-of-00002/000012".
        name : str
            What the table calls the image. Its last part is put behind, without what could lead elsewhere.
        image : bytes or None
            None: there is no file then.
        """
        file = place + _tail(name, image or b"")
        path = self.folder / file
        if image is None or _holds(path, image):
            return file
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(image)
            os.replace(part, path)
        self.written += 1
        return file


def _tail(name: str, image: bytes) -> str:
    plain = PurePosixPath(re.sub(r"[^\w.-]+", "_", name.replace("\\", "/").rpartition("/")[2]))
    stem, suffix = plain.stem.strip("._-")[:_LONGEST], plain.suffix.lower()
    if suffix not in SUFFIXES:
        suffix = next((kind for start, kind in _STARTS.items() if image.startswith(start)), "")
    return (f"-{stem}" if stem else "") + suffix


def _holds(path: Path, image: bytes) -> bool:
    try:
        return path.stat().st_size == len(image) and path.read_bytes() == image
    except OSError:
        return False
