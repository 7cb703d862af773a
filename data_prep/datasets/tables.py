"""Reading a captions table, CSV or Parquet, so that an error can name the line it is about."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from rank_xmodal.errors import UserError
from rank_xmodal.files import read_parquet
from rank_xmodal.files.reading import is_text, unreadable


@dataclass(frozen=True)
class Table:
    """Columns of strings, and where each row stands in the file."""

    path: Path
    columns: dict[str, list[str]]
    places: list[int]
    unit: str  # "line" of a CSV, counted from 1 with the header; "row" of a Parquet file, counted from 0 as pandas does
    others: dict[str, str] = field(default_factory=dict)  # columns that hold no text: their types

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, column: str) -> bool:
        if column in self.others:
            also = ", or lists of it" if column == "labels" else ""
            raise UserError(
                f"{self.path}: the column {column!r} holds {self.others[column]}; it must hold text{also}. Convert it, "
                "or give it another name."
            )
        return column in self.columns

    def __getitem__(self, column: str) -> list[str]:
        return self.columns[column]

    def at(self, row: int) -> str:
        """Return "FILE, line N": the start of a message about this row."""
        return f"{self.path}, {self.unit} {self.places[row]}"

    def require(self, names: Iterable[str]) -> None:
        """Check that the columns are there.

        Raises
        ------
        UserError
            If one is missing.
        """
        for name in names:
            if name not in self:
                found = ", ".join(map(repr, self.columns)) or "none"
                raise UserError(
                    f"{self.path}: no column {name!r} (found {found}). Name it in the "
                    f"{'header line; separate columns with commas' if self.unit == 'line' else 'table'}."
                )

    def unique(self, column: str) -> None:
        """Check that no value of the column occurs twice.

        Raises
        ------
        UserError
            If one does.
        """
        seen: dict[str, int] = {}
        for row, value in enumerate(self[column]):
            if value in seen:
                raise UserError(
                    f"{self.at(row)}: {column} {value!r} stands already in {self.unit} {self.places[seen[value]]}. "
                    "Give every caption its own."
                )
            seen[value] = row

    def filled(self, column: str) -> None:
        """Check that no value of the column is empty or blank.

        Raises
        ------
        UserError
            If one is.
        """
        for row, value in enumerate(self[column]):
            if not value:
                raise UserError(f"{self.at(row)}: {column} is empty. Fill it in or delete the {self.unit}.")


def read_captions(path: Path, required: Iterable[str]) -> Table:
    """Read a table whose suffix is .csv or .parquet; values become stripped strings, missing ones "".

    Raises
    ------
    UserError
        If the file is missing, empty, not UTF-8, malformed, or lacks a required column.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. It must be a CSV or Parquet table with columns {', '.join(required)}.")
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: a captions table must end in .csv or .parquet, not {suffix!r}. Convert or rename it.")
    table = _read_csv(path) if suffix == ".csv" else _read_parquet(path)
    table.require(required)
    if not len(table):
        raise UserError(f"{path}: it has a header and no rows. Write one row a caption.")
    return table


def _read_parquet(path: Path) -> Table:
    read = read_parquet(path)
    kinds = {field.name: field.type for field in read.schema}
    if len(kinds) < len(read.schema):
        twice = next(name for name in kinds if read.column_names.count(name) > 1)
        raise UserError(f"{path}: the column {twice!r} is there twice. Rename one.")
    columns: dict[str, list[str]] = {}
    others: dict[str, str] = {}
    try:
        read.validate(full=True)
        for name, kind in kinds.items():
            if name == "labels" and _is_list_of_text(kind):
                columns[name] = [_joined(path, row, value) for row, value in enumerate(read[name].to_pylist())]
            elif _is_text(kind):
                columns[name] = ["" if v is None or v != v else _text(v).strip() for v in read[name].to_pylist()]
            else:
                others[name] = str(kind)
    except (pa.ArrowException, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: a column is damaged ({why}). Make the file again.") from error
    return Table(path, columns, list(range(len(read))), "row", others)


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column's values can be read as text as they stand."""
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return is_text(kind) or any(is_it(kind) for is_it in numbers)


def _is_list_of_text(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and _is_text(kind.value_type)


def _joined(path: Path, row: int, classes: list[object] | None) -> str:
    names = ["" if name is None else _text(name).strip() for name in classes or []]
    bad = [name for name in names if not name or "|" in name]
    if bad:
        raise UserError(f"{path}, row {row}: labels holds the class {bad[0]!r}. Name it, without '|'.")
    return "|".join(names)


def _text(value: object) -> str:
    # A whole-number column with a gap is read as floats: 3.0 is the row 3.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _read_csv(path: Path) -> Table:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        kind = "utf-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin1"
        raise UserError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8. Save the file as UTF-8 "
            f"(`iconv -f {kind} -t utf-8 FILE`, or 'CSV UTF-8' in a spreadsheet)."
        ) from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty. Its first line names the columns, then one line a caption.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    places: list[int] = []
    line = 1
    try:
        header = [name.strip() for name in next(reader)]
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                if len(fields) != len(header):
                    raise UserError(
                        f"{path}, line {line}: {len(fields)} fields, but the header names {len(header)} "
                        f"({', '.join(header)}). Put a caption that holds a comma in double quotes."
                    )
                rows.append(fields)
                places.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: not valid CSV ({error}). Check its double quotes; write one inside a caption twice."
        ) from error
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise UserError(f"{path}, line 1: the column {twice[0]!r} is named twice. Rename one.")
    return Table(path, {name: [r[i].strip() for r in rows] for i, name in enumerate(header)}, places, "line")
