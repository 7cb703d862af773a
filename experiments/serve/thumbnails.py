"""Pictures of a corpus' own images, small, as JPEG; those that were asked for lately are kept."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass

from data_prep.images import read_image
from rank_xmodal.errors import UserError

SIDE = 320
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Thumbnail:
    """A picture and what tells it from another."""

    jpeg: bytes
    etag: str


class Thumbnails:
    """Makes and keeps pictures, of `most` bytes together; safe to use in threads."""

    def __init__(self, side: int = SIDE, most: int = MOST_BYTES) -> None:
        self.side, self.most, self.size = side, most, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def etag(self, file: str) -> str | None:
        """Return what changes when a file does, None where there is no such file; decodes nothing."""
        try:
            found = os.stat(file)
        except (OSError, ValueError):  # the latter of a NUL
            return None
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            return None
        return hashlib.sha256(f"{file}\0{found.st_mtime_ns}\0{found.st_size}\0{self.side}".encode()).hexdigest()[:32]

    def get(self, file: str) -> Thumbnail | None:
        """Return the picture of an image file, None where there is no such file or it is no image."""
        etag = self.etag(file)
        if etag is None:
            return None
        with self._lock:
            known = self._kept.get(etag)
            if known is not None:
                self._kept.move_to_end(etag)
                return Thumbnail(known, etag)
        try:
            image = read_image(file)
        except UserError:
            return None
        image.thumbnail((self.side, self.side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        jpeg = buffer.getvalue()
        with self._lock:
            if etag not in self._kept:
                self._kept[etag] = jpeg
                self.size += len(jpeg)
            while self.size > self.most and self._kept:
                self.size -= len(self._kept.popitem(last=False)[1])
        return Thumbnail(jpeg, etag)
