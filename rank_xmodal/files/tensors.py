"""Tensors on disk, as safetensors: nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from rank_xmodal.errors import UserError
from rank_xmodal.files.digest import sha256
from rank_xmodal.files.reading import unreadable
from rank_xmodal.files.writing import replacing

_SUM = "sha256"


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of tensors and their names, in whatever order they come."""
    parts: list[bytes | np.ndarray] = []
    for name, value in sorted(tensors.items()):
        exact = value.detach().cpu().contiguous()
        parts += [f"{name} {tuple(exact.shape)} {exact.dtype}".encode(), exact.reshape(-1).view(torch.uint8).numpy()]
    return sha256(*parts)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], told: dict[str, str] | None = None) -> None:
    """Write tensors and, as the file's metadata, words; whole or not at all.

    Raises
    ------
    UserError
        As `replacing`.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # safetensors' own writing leaves .tmp files when it is killed, and files that nobody else may read.
    whole = save(state, told)
    with replacing(path) as part:
        part.write_bytes(whole)


def write_checked(path: Path, tensors: Mapping[str, torch.Tensor], told: dict[str, str] | None = None) -> None:
    """Write tensors and words as `write_tensors`, with a checksum for `read_checked`."""
    write_tensors(path, tensors, {**(told or {}), _SUM: digest_of(tensors)})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with Path(path).open("rb"):  # safetensors' own errors name neither file nor cause
            pass
        yield
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({' '.join(str(error).split())}).") from error


def read_tensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Read tensors.

    Raises
    ------
    UserError
        If the file is missing, not to be read, cut short, or no safetensors.
    """
    with _reading(path):
        return load_file(path, device=device)


def read_told(path: Path) -> dict[str, str]:
    """Read the words that `write_tensors` put into a file.

    Raises
    ------
    UserError
        As `read_tensors`.
    """
    with _reading(path), safe_open(path, "pt") as opened:
        return opened.metadata() or {}


def read_checked(path: Path, device: str = "cpu") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read tensors and words that `write_checked` wrote.

    Raises
    ------
    UserError
        As `read_tensors`, or if they aren't what was written.
    """
    tensors, told = read_tensors(path, device), read_told(path)
    if told.get(_SUM) != digest_of(tensors):
        raise UserError(f"{path}: damaged. Delete it: what it keeps is made anew.")
    return tensors, told
