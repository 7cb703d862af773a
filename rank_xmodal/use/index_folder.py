"""An index on disk: tables that grow at their end, and a manifest, written last, that says how far they count.

docs/formats.md says what stands in them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rank_xmodal.errors import UserError
from rank_xmodal.files import locked, open_npy, read_json, recover, replacing, telling, write_json
from rank_xmodal.retrieval.first_stage import of_codes
from rank_xmodal.retrieval.retriever import Space
from rank_xmodal.scorers import folder as rankers
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.exact_store import ExactStore
from rank_xmodal.use.prepared import Prepared
from rank_xmodal.use.store import REMEDY, Store

FORMAT = 1
STORES = ("exact", "lance")
MANIFEST = "index.json"
_MOST_FILES = 32  # of items; more are written as one
_KINDS = ("float16", "float32", "float64", "int8", "uint8")


@dataclass
class Folder:
    """The exact store's folder: who writes to it does so alone, who reads has what counted when it was opened.

    Attributes
    ----------
    path : Path
    same_space : bool
        Whether the base's space is the first stage's.
    told : dict
        The manifest.
    """

    path: Path
    same_space: bool
    told: dict[str, Any] = field(default_factory=dict)

    def add(self, prepared: Prepared, items: pa.Table) -> tuple[Prepared, pa.Table]:
        """Write candidates behind the last, and return all, mapped.

        Raises
        ------
        UserError
            If they can't be written, or another process writes or wrote there.
        """
        with self._writing("adding to it"):
            count, told, tables = self.told["rows"], dict(self.told), {}
            for name, table in prepared.tables().items():
                rows = np.ascontiguousarray(table)
                known = told["tables"].get(name, {"dtype": rows.dtype.name, "width": rows.shape[1], "crc32": 0})
                rows = rows.astype(known["dtype"], copy=False)
                _append(self.path / f"{name}.bin", count * rows.dtype.itemsize * known["width"], rows)
                tables[name] = {**known, "crc32": zlib.crc32(rows.data if rows.size else b"", known["crc32"])}
            files = [*told["items"], self._write_items(items, told["next"])]
            told |= {"rows": count + len(prepared), "tables": tables, "next": told["next"] + 1}
            if len(files) > _MOST_FILES:
                everything = pa.concat_tables([self._read_items(entry) for entry in files])
                files = [self._write_items(everything, told["next"])]
                told["next"] += 1
            self._tell({**told, "items": files})
        return self.read()

    def remove(self, gone: np.ndarray) -> None:
        """Write which rows are gone.

        Raises
        ------
        UserError
            As `add`.
        """
        with self._writing("removing from it"):
            name = f"gone-{self.told['next']}.npy"
            with replacing(self.path / name) as part, part.open("wb") as handle:
                np.save(handle, gone.astype(np.int64))
            entry = {"file": name, "count": len(gone), "crc32": zlib.crc32(np.ascontiguousarray(gone, np.int64).data)}
            self._tell({**self.told, "gone": entry, "next": self.told["next"] + 1})

    @contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        with telling(self.path), locked(self.path, doing):
            if (self.path / MANIFEST).is_file() and read_json(self.path / MANIFEST) != self.told:
                raise UserError(f"{self.path}: another process changed it since it was opened here. Open it again.")
            yield

    def _tell(self, told: dict[str, Any]) -> None:
        """Write the manifest: from here on the change counts. What no longer counts is removed."""
        write_json(self.path / MANIFEST, told)
        self.told = read_json(self.path / MANIFEST)
        counted = {entry["file"] for entry in told["items"]} | ({told["gone"]["file"]} if told["gone"] else set())
        for pattern in ("items-*.arrow", "gone-*.npy"):
            for file in self.path.glob(pattern):
                if file.name not in counted:
                    with suppress(OSError):
                        file.unlink()

    def _write_items(self, items: pa.Table, number: int) -> dict[str, Any]:
        name = f"items-{number}.arrow"
        with (
            replacing(self.path / name) as part,
            pa.OSFile(str(part), "wb") as sink,
            pa.ipc.new_file(sink, items.schema) as writer,
        ):
            writer.write_table(items)
        return {"file": name, "rows": len(items), "crc32": zlib.crc32((self.path / name).read_bytes())}

    def _read_items(self, entry: dict[str, Any]) -> pa.Table:
        path = self.path / str(entry.get("file"))
        try:
            # Mapped, so that the names of a million candidates cost what is looked at.
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            table.validate()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: can't be read ({error}). {REMEDY}") from error
        if len(table) != entry["rows"] or "id" not in table.column_names:
            raise UserError(f"{path}: holds {len(table):,} rows, {entry['rows']:,} are told. {REMEDY}")
        return table

    def read(self) -> tuple[Prepared, pa.Table]:
        """Return the candidates, mapped, and their items.

        Raises
        ------
        UserError
            If a file is missing or too short, or they don't fit together.
        """
        told, tables = self.told, {}
        for name, known in told["tables"].items():
            if known["dtype"] not in _KINDS:
                raise UserError(f"{self.path / MANIFEST}: {name} is said to hold {known['dtype']!r}. {REMEDY}")
            path, shape = self.path / f"{name}.bin", (told["rows"], known["width"])
            kind = np.dtype(known["dtype"])
            needed = shape[0] * shape[1] * kind.itemsize
            if not path.is_file() or path.stat().st_size < needed:
                found = path.stat().st_size if path.is_file() else "no"
                raise UserError(f"{path}: {found} bytes, {needed} are told. {REMEDY}")
            tables[name] = np.memmap(path, kind, "r", shape=shape) if needed else np.empty(shape, kind)
        if "embeddings" not in tables or "neighbours" not in tables:
            raise UserError(f"{self.path / MANIFEST}: tells no embeddings or neighbours. {REMEDY}")
        items = pa.concat_tables([self._read_items(entry) for entry in told["items"]])
        if len(items) != told["rows"]:
            raise UserError(f"{self.path}: {len(items):,} items for {told['rows']:,} candidates. {REMEDY}")
        return Prepared.of_tables(tables, self.same_space), items

    def gone(self) -> np.ndarray:
        """Return the rows that were removed, (n,) int64.

        Raises
        ------
        UserError
            If their file is missing or damaged.
        """
        entry = self.told["gone"]
        if not entry:
            return np.empty(0, dtype=np.int64)
        path = self.path / entry["file"]
        rows = np.array(open_npy(path, REMEDY))
        if rows.dtype != np.int64 or rows.shape != (entry["count"],) or zlib.crc32(rows.data) != entry["crc32"]:
            raise UserError(f"{path}: damaged. {REMEDY}")
        return rows

    def verify(self) -> None:
        """Compare tables and items with their checksums.

        Raises
        ------
        UserError
            If one differs.
        """
        prepared, _ = self.read()
        for name, table in prepared.tables().items():
            _same(self.path / f"{name}.bin", _checksum(table), self.told["tables"][name]["crc32"])
        for entry in self.told["items"]:
            path = self.path / entry["file"]
            _same(path, zlib.crc32(path.read_bytes()), entry["crc32"])


def _append(path: Path, offset: int, rows: np.ndarray) -> None:
    """Write rows from a byte on; what a writer that died left behind it is cut off."""
    with path.open("r+b" if path.exists() else "w+b") as handle:
        handle.truncate(offset)
        handle.seek(offset)
        handle.write(rows.data if rows.size else b"")
        handle.flush()
        os.fsync(handle.fileno())


def _checksum(table: np.ndarray) -> int:
    found = 0
    for start in range(0, len(table), 65_536):
        found = zlib.crc32(np.ascontiguousarray(table[start : start + 65_536]).data, found)
    return found


def _same(path: Path, found: int, told: int) -> None:
    if found != told:
        raise UserError(f"{path}: damaged: its CRC-32 is {found:08x}, {told:08x} is told. {REMEDY}")


def write(
    path: Path,
    store: str,
    stack: Stack,
    facts: dict[str, Any],
    space: Space | None,
    parts: Iterable[tuple[Prepared, pa.Table]],
    source: dict[str, Any] | None = None,
) -> None:
    """Write an index from its candidates and their items, part after part, whole or not at all.

    `source` is what the manifest says of where they come from.

    Raises
    ------
    UserError
        As `Index.save`.
    """
    if store not in STORES:
        raise UserError(f"store={store!r}: must be one of {', '.join(STORES)}.")
    if space is not None and space is not stack.own_space:
        raise UserError("first_stage: a space of your own can't be kept with an index. Use 'clip' or 'own'.")
    if store == "lance" and of_codes(space):
        raise UserError("store='lance': it holds vectors, and this first stage searches codes. Use store='exact'.")
    if path.exists() and not (path / MANIFEST).is_file():
        raise UserError(f"{path}: is there already, and is no index. Choose another place.")
    first_stage = "clip" if space is None else "own"
    told = {"format": FORMAT, "store": store, "first_stage": first_stage, "source": source}
    with replacing(path) as part:
        part.mkdir()
        rankers.save(part / "ranker", stack, facts, _card(stack, facts))
        if store == "lance":
            from rank_xmodal.use.lance_store import LanceStore

            LanceStore.write(part, space, space is stack.space, parts, stack.bank)
            write_json(part / MANIFEST, told)
        else:
            folder = Folder(part, space is stack.space)
            folder.told = {**told, "rows": 0, "tables": {}, "items": [], "gone": None, "next": 0}
            for prepared, items in parts:
                folder.add(prepared, items)


def read(path: Path, verify: bool) -> tuple[Stack, dict[str, Any], Store, Space | None]:
    """Return an index' ranker, its facts, its candidates, and where the first stage searches.

    Others may write to it meanwhile, or put another in its place: what is returned is whole.

    Raises
    ------
    UserError
        As `Index.load`.
    """
    if not path.is_dir():
        recover(path.resolve().parent)
    while True:
        before = _standing(path)
        try:
            found = _read(path, verify)
        except UserError:
            if _standing(path) == before:
                raise
            continue
        if _standing(path)[0] == before[0]:  # more, or fewer, candidates are no matter: what was read counted
            return found


def _standing(path: Path) -> tuple[int, bytes]:
    """Return what tells a folder from one that is put in its place, and its manifest."""
    try:
        return path.stat().st_ino, (path / MANIFEST).read_bytes()
    except OSError:
        return 0, b""


def _read(path: Path, verify: bool) -> tuple[Stack, dict[str, Any], Store, Space | None]:
    if not (path / MANIFEST).is_file():
        raise UserError(f"{path}: holds no index (no {MANIFEST}). Make one with `rank-xmodal index`.")
    told = read_json(path / MANIFEST)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        found = told.get("format") if isinstance(told, dict) else None
        raise UserError(f"{path / MANIFEST}: format {found!r}; this version reads format {FORMAT}. Index again.")
    if told.get("first_stage") not in ("clip", "own") or told.get("store") not in STORES:
        raise UserError(f"{path / MANIFEST}: names no first stage or no store. {REMEDY}")
    stack, facts = rankers.load(path / "ranker")
    space = stack.own_space if told["first_stage"] == "own" else None
    if told["store"] == "lance":
        from rank_xmodal.use.lance_store import LanceStore

        table = LanceStore(path, space, space is stack.space)
        if verify:
            table.verify()
        return stack, facts, table, space
    folder = Folder(path, space is stack.space, told)
    try:
        if verify:
            folder.verify()
        prepared, items = folder.read()
        store = ExactStore(space, prepared, items, folder.gone(), folder)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:  # a manifest that another wrote
        raise UserError(f"{path / MANIFEST}: not what an index says of itself ({error!r}). {REMEDY}") from error
    return stack, facts, store, space


def _card(stack: Stack, facts: dict[str, Any]) -> str:
    """Return what the ranker's folder inside an index says of itself."""
    return (
        f"# {stack.scorer.label}\n\nThe ranker of the index around this folder ({facts.get('direction')}, "
        f"{stack.scorer.paper}).\n"
    )
