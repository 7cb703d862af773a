"""Fits that take their time, kept in the embedding set: whatever asks for the same again takes them up."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.files import sha256
from rank_xmodal.files.tensors import read_checked, write_checked

FOLDER = "scores"


def kept_fit(
    data: EmbeddingSet, what: list[Any], code: Path, device: str, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of a fit on the split train, made or taken up from an earlier time.

    Parameters
    ----------
    data : EmbeddingSet
    what : list, as JSON can hold it
        What tells this fit from others on the same items and split.
    code : Path
        A folder of Python files: what another version of them made is made again.
    device : str
    make : () -> dict
        Makes the fit.
    """
    path = None if data.kept is None else data.kept / FOLDER / f"{_key(data, what, code)}.safetensors"
    if path is not None and path.is_file():
        with suppress(UserError):  # cut short or damaged; made again below
            return read_checked(path, device)[0]
    found = make()
    if path is not None:
        # What can't be kept, in a set that may not be written to, is made again the next time.
        with suppress(OSError, UserError):
            write_checked(path, found)
    return found


def _key(data: EmbeddingSet, what: list[Any], code: Path) -> str:
    train = [(table["split"] == "train").to_numpy() for table in (data.images, data.texts)]
    told = json.dumps([data.fingerprint, *what, digest_of(code), torch.__version__])
    return sha256(told.encode(), *train)[:24]


@lru_cache
def digest_of(code: Path) -> str:
    """Return a digest of a folder's Python files."""
    return sha256(*(path.read_bytes() for path in sorted(code.glob("*.py"))))
