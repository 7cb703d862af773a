"""Reading with a message when a file is missing, locked away, endless or broken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from rank_xmodal.errors import UserError, first_line

_LONGEST = 1 << 20  # bytes of settings: what is longer is something else, and may never end
_JSON = 1 << 30  # bytes of JSON: COCO's captions are 144 MB
_NODES = 100_000  # values in a YAML file, those that its aliases repeat counted each time


def unreadable(path: Path | str, error: OSError) -> UserError:
    """Return what to say of a file that can't be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file.")
    if isinstance(error, PermissionError):
        return UserError(f"{path}: may not be read (permission denied). Ask its owner for the right to read it.")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path}: is a folder. Name a file.")
    return UserError(f"{path}: can't be read ({error.strerror or error}).")


def _text(path: Path, most: int) -> str:
    try:
        with Path(path).open("rb") as handle:
            raw = handle.read(most + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(raw) > most:
        raise UserError(f"{path}: longer than {most:,} bytes. Name another file.")
    return raw.decode("utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    UserError
        If the file is missing, not to be read or no JSON.
    """
    try:
        return json.loads(_text(path, _JSON))
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError, too
        raise UserError(f"{path}: not valid JSON ({error}). It may have been cut short; make it again.") from error


class YamlLoader(yaml.SafeLoader):
    """Reads plain values and nothing else, and takes on, off, yes and no for the words that they are, as YAML 1.2 does.

    One of our settings is called `on`, which YAML 1.1 reads as True. Dates are words, too.
    """


_OTHERWISE = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _OTHERWISE]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of at most a million bytes that holds `key: value` lines; an empty one holds none.

    Raises
    ------
    UserError
        If it is missing, not to be read, too long, or holds something else, or as `yaml_value`.
    """
    try:
        text = _text(path, _LONGEST)
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML ({error}).") from error
    loaded = yaml_value(text, str(path))
    if loaded is not None and not isinstance(loaded, dict):
        raise UserError(f"{path}: must hold `key: value` lines, found a {type(loaded).__name__}.")
    return loaded or {}


def yaml_value(text: str, where: str) -> Any:
    """Return what YAML says.

    Raises
    ------
    UserError
        If it is no YAML, names a key twice in one place, or has keys or values that are neither words, numbers, truth
        values, lists nor mappings; `where` begins the message.
    """
    try:
        root = yaml.compose(text, YamlLoader)
        if root is None:
            return None
        _Nodes(where).size(root)
        return YamlLoader("").construct_document(root)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML ({' '.join(str(error).split())[:300]}).") from error


_TAG = "tag:yaml.org,2002:"
_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map")


class _Nodes:
    """Checks that a document is plain, and that what its aliases repeat isn't beyond measure.

    Ten lines of aliases, each of ten of the line before, would be 10^10 values.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.sizes: dict[int, int] = {}

    def size(self, node: yaml.Node) -> int:
        """Return how many values a node holds, itself included."""
        where = f"{self.where}, line {node.start_mark.line + 1}"
        if id(node) in self.sizes:
            if not self.sizes[id(node)]:
                raise UserError(f"{where}: an alias inside of what it stands for. Write it out.")
            return self.sizes[id(node)]
        self.sizes[id(node)] = 0
        if node.tag.removeprefix(_TAG) not in (*_PLAIN, "merge"):
            raise UserError(f"{where}: the tag {node.tag} is none of {', '.join(_PLAIN)}. Leave it out.")
        inside = self._values(node, where) if isinstance(node, yaml.MappingNode) else []
        if isinstance(node, yaml.SequenceNode):
            inside = node.value
        total = 1 + sum(self.size(child) for child in inside)
        if total > _NODES:
            raise UserError(f"{where}: more than {_NODES:,} values. Use fewer aliases.")
        self.sizes[id(node)] = total
        return total

    def _values(self, node: yaml.MappingNode, where: str) -> list[yaml.Node]:
        names = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.removeprefix(_TAG) not in ("str", "merge"):
                shown = key.value if isinstance(key, yaml.ScalarNode) else key.tag
                raise UserError(f"{where}: the key {str(shown)[:50]!r} is no word. Put it in quotes.")
            if key.value in names:
                raise UserError(f"{where}: {key.value!r} stands twice in the same place. Give each a name of its own.")
            names.add(key.value)
        return [value for _, value in node.value]


def open_npy(path: Path, remedy: str) -> np.ndarray:
    """Open one .npy array, memory-mapped; `remedy` ends each message.

    Raises
    ------
    UserError
        If the file is missing, not to be read, cut short, pickled, or no .npy array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. {remedy}") from error
    except PermissionError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # a header is read as Python: whatever its tokenizer, parser and numbers throw
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: not a plain .npy array ({why}). {remedy}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of several arrays. {remedy}")
    return array


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file as an Arrow table, its metadata included.

    Raises
    ------
    UserError
        If the file is missing, not to be read, truncated or no Parquet.
    """
    with _telling_parquet(path), Path(path).open("rb") as handle:
        table = pq.read_table(handle, page_checksum_verification=True)
        table.validate()
        _ = table.column_names  # which may be no UTF-8
        return table


@contextmanager
def opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file to be read part after part; what Arrow raises meanwhile is told as of this file.

    Raises
    ------
    UserError
        As `read_parquet`.
    """
    with _telling_parquet(path), Path(path).open("rb") as handle:
        yield pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=False)


@contextmanager
def _telling_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise unreadable(path, error) from error
    except MemoryError as error:  # Arrow's is one, too
        raise UserError(
            f"{path}: doesn't fit into memory ({first_line(error)}). If it is whole, use a machine with more."
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: not a readable Parquet file ({why}). Delete it and make it again.") from error


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds words."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    views = getattr(pa.types, "is_string_view", lambda kind: False)  # pyarrow 16
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or views(kind))


_HOLDS: dict[str, Callable[[pa.DataType], bool]] = {
    "str": lambda kind: is_text(kind) or pa.types.is_integer(kind),  # whole numbers may be somebody's ids
    "int": pa.types.is_integer,
    "float": pa.types.is_floating,
}


def read_table(path: Path, columns: dict[str, str], what: str) -> pd.DataFrame:
    """Read the named columns of a Parquet file as a pandas frame with the given dtypes.

    Raises
    ------
    UserError
        If the file is broken, or a column is missing, has gaps or doesn't hold what `columns` says.
    """
    return frame_of(read_parquet(path), path, columns, what)


def frame_of(
    table: pa.Table, path: Path, columns: dict[str, str], what: str, gaps: Collection[str] = ()
) -> pd.DataFrame:
    """Return the named columns of a table that was read from `path`; see `read_table`.

    What is missing in a column of `gaps` is read as "".
    """
    for name, dtype in columns.items():
        if table.column_names.count(name) != 1:
            found = ", ".join(map(repr, table.column_names))
            raise UserError(f"{path}: {what} need one column {name!r}; found {found}. Make it again.")
        if name in gaps and table[name].null_count:
            filled = pc.fill_null(table[name].cast(pa.string()), "")
            table = table.set_column(table.column_names.index(name), name, filled)
        column, kind = table[name], dtype.lstrip("u").rstrip("0123456789")
        if not _HOLDS[kind](column.type):
            raise UserError(f"{path}: the column {name!r} of {what} holds {column.type}, not {dtype}. Make it again.")
        if column.null_count and kind != "float":  # there it is NaN
            raise UserError(f"{path}: the column {name!r} of {what} has {column.null_count} gaps. Make it again.")
    try:
        table.select(list(columns)).validate(full=True)
        frame = table.select(list(columns)).to_pandas()
        cast = frame.astype(columns)
        for name, dtype in columns.items():
            if "int" in dtype and not (cast[name] == frame[name]).all():
                raise ValueError(f"{name} has a number beyond {dtype}")
    except (pa.ArrowException, ValueError, TypeError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: a column of {what} holds something unexpected ({why}). Make it again.") from error
    return cast
