"""Writing so that a reader never sees half a file, and reading with a message when a file is broken."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rank_xmodal.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, a file or a folder to be; move it there once the block succeeds.

    Whatever stood at `path` stays until then, and stays if the block fails; the temporary path is removed then.

    Raises
    ------
    UserError
        If the disk is full or the place can't be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if part.is_dir() and path.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            try:
                part.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
            raise UserError(f"{path}: the disk is full. Nothing was changed; free some space and run again.") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY):
            raise UserError(f"{path}: can't be written ({error.strerror}). Choose another place with --out.") from error
        raise
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):  # where nothing could be made, there is nothing to remove
                part.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    UserError
        If the file is missing or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}). It may have been cut short; make it again.") from error


class YamlLoader(yaml.SafeLoader):
    """Reads plain values and nothing else, and takes on, off, yes and no for the words that they are, as YAML 1.2 does.

    One of our settings is called `on`, which YAML 1.1 reads as True.
    """


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds `key: value` lines; an empty one holds none.

    Raises
    ------
    UserError
        If it is missing, no YAML, or holds something else.
    """
    try:
        loaded = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=YamlLoader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise UserError(f"{path}: must hold `key: value` lines, found a {type(loaded).__name__}.")
    return loaded or {}


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file as an Arrow table, its metadata included.

    Raises
    ------
    UserError
        If the file is missing, truncated or no Parquet.
    """
    try:
        return pq.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}). Delete it and make it again.") from error


def read_table(path: Path, columns: dict[str, str], what: str) -> pd.DataFrame:
    """Read the named columns of a Parquet file as a pandas frame with the given dtypes.

    Raises
    ------
    UserError
        If the file is broken, or a column is missing or doesn't hold what `columns` says.
    """
    frame = read_parquet(path).to_pandas()
    missing = [name for name in columns if name not in frame]
    if missing:
        raise UserError(
            f"{path}: {what} need a column {missing[0]!r}; found {', '.join(map(repr, frame.columns))}. Make it again."
        )
    try:
        return frame[list(columns)].astype(columns)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: a column of {what} holds something unexpected ({error}). Make it again.") from error


def sha256(*parts: bytes | memoryview | np.ndarray) -> str:
    """Return the hexadecimal SHA-256 of the parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(handle)


def _slow(handle: Any) -> str:  # Python 3.10 has no file_digest
    digest = hashlib.sha256()
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
