"""`parquet`: images inside Parquet files, as Hugging Face keeps its image datasets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.datasets.corpus import Corpus, image_table, relevance_table, text_table
from data_prep.datasets.extracted import Extracted
from data_prep.datasets.splits import named_split, random_splits
from data_prep.progress import progress_bar
from rank_xmodal.errors import UserError
from rank_xmodal.files.reading import is_text, unreadable

_CAPTIONS = (r"captions?(_\d+)?", r"texts?(_\d+)?", r"sentences?(_\d+)?")  # the first kind that is there
_BATCH = 32  # rows at a time; of a file no more than a row group is in memory


@dataclass(frozen=True)
class Row:
    """An image as a Parquet file holds it, and what is said of it."""

    image: bytes | None
    name: str
    captions: list[str]
    split: str | None


def load_parquet(root: Path, images: Path, seed: int = 0, say: Callable[[str], None] = print) -> Corpus:
    """Read Parquet files with a column of images: structs of bytes and path, or bytes alone.

    The images are written into a folder as they are, where they are encoded from, and shown later. Captions are strings
    or lists of strings in a column caption, text or sentences (or caption_0, caption_1 ...); without one the images
    become a corpus to search in. Rows that hold the same image are one image with the captions of all, within a split.
    Splits are read from a column split, else from the names of files or their folders
    (train-00000-of-00002.parquet).

    Parameters
    ----------
    root : Path
        A Parquet file, or a folder of such.
    images : Path
        The folder for the images. What an interrupted run wrote into it is kept.
    seed : int
        Deals images with captions out 80/10/10 where nothing tells the split.

    Raises
    ------
    UserError
        If there is no Parquet file, one is broken or has no images, a split is unknown or told of some only, or
        `images` holds something else or can't be written.
    """
    root = Path(root)
    readers = [_Reader(file, root) for file in _files(root)]
    count = sum(map(len, readers))
    names: list[str] = []
    splits: list[str | None] = []
    captions: list[tuple[int, str, str]] = []
    first: dict[tuple[str | None, bytes], int] = {}
    said: Counter[int] = Counter()  # captions of each image so far
    empty = without = 0
    with Extracted(images, root) as extracted, progress_bar("images", count, say=say) as advance:
        for reader in readers:
            for number, row in enumerate(reader):
                # Dealt out one by one, a caption each, an image would be trained on and tested with.
                key = (row.split, sha256(row.image or b"").digest())
                at = first.setdefault(key, len(names)) if row.image and reader.captions else len(names)
                if at == len(names):
                    names.append(extracted.put(f"{reader.shard}/{number:06d}", row.name, row.image))
                    splits.append(row.split)
                    without += row.image is None
                for text in filter(None, row.captions):
                    captions.append((at, f"{names[at]}#{said[at]}", text))
                    said[at] += 1
                empty += row.captions.count("")
                advance(1)
    if not names:
        raise UserError(f"{root}: the table is empty. Bring the file again.")
    if without == len(names):
        raise UserError(
            f"{root}: names images, {row.name!r} among them, and holds none. Save the dataset with its images in it, "
            "or embed their folder, with a table of captions: --dataset folder."
        )
    there = len(names) - without - extracted.written
    say(f"{root}: {extracted.written:,} of {len(names):,} images written into {images}, {there:,} were there")
    if without:
        say(f"{root}: {without:,} rows hold no image")
    if len(names) < count:
        say(f"{root}: {count:,} rows hold {len(names):,} different images; captions of one image are brought together")
    if empty:
        say(f"{root}: {empty:,} empty captions left out")
    told = _splits(root, names, splits, bool(captions), seed, say)
    owner = [row for row, _, _ in captions]
    return Corpus(
        name=root.resolve().stem,
        images=image_table(names, names, told),
        texts=text_table([name for _, name, _ in captions], [text for *_, text in captions], [told[i] for i in owner]),
        relevance=relevance_table(owner),
        image_root=images,
    )


def _files(root: Path) -> list[Path]:
    """Return the Parquet files of a dataset, without hidden ones and those in hidden folders."""
    found = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix.lower() == ".parquet")
    found = [path for path in found if path.is_file() and not _is_hidden(path, root)]
    if not found:
        raise UserError(f"{root}: no Parquet file. Name one, or the folder of a dataset, with --root.")
    return found


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _splits(
    root: Path, names: list[str], splits: list[str | None], captioned: bool, seed: int, say: Callable[[str], None]
) -> list[str]:
    told = [split for split in splits if split]
    if len(told) == len(names):
        return told
    if told:
        raise UserError(
            f"{root}: nothing tells the split of {names[splits.index(None)]!r}, and of others something does. Name the "
            "files train-*, validation-* or test-*, or give all a column 'split'."
        )
    if not captioned:
        say(f"{root}: no captions, so its {len(names):,} images become a corpus to search in")
        return ["test"] * len(names)
    dealt = random_splits(names, seed, str(root))
    say(f"{root}: no splits; {len(names):,} images dealt out 80/10/10 (seed {seed})")
    return [dealt[name] for name in names]


class _Reader:
    """The rows of a file, a batch at a time."""

    def __init__(self, file: Path, root: Path) -> None:
        self.file = file
        self.shard = (Path(file.name) if file == root else file.relative_to(root)).with_suffix("").as_posix()
        try:
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True)
            kinds = {field.name: field.type for field in self._parquet.schema_arrow}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _broken(file, error) from error
        self._image = _image_column(file, kinds)
        self.captions = _caption_columns(file, kinds)
        self._split = "split" if "split" in kinds else None
        if self._split and not is_text(kinds["split"]):
            raise UserError(
                f"{file}: the column 'split' holds {str(kinds['split'])[:200]}; it must hold train, val or test. "
                "Convert the column, or give it another name."
            )
        parts = [*self.shard.split("/")[::-1]]
        self._of_file = next(filter(None, (named_split(re.split(r"[-_.]", part)[0]) for part in parts)), None)

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def __iter__(self) -> Iterator[Row]:
        columns = [self._image, *self.captions, *([self._split] if self._split else [])]
        number = 0
        batches = self._parquet.iter_batches(_BATCH, columns=columns)
        while True:
            try:
                batch = next(batches, None)
                rows = batch.to_pylist() if batch is not None else []
            except (pa.ArrowException, OSError, ValueError) as error:
                raise _broken(self.file, error) from error
            if batch is None:
                return
            for row in rows:
                yield self._row(row, number)
                number += 1

    def _row(self, row: dict[str, Any], number: int) -> Row:
        image = row[self._image]
        name = ""
        if isinstance(image, dict):
            image, name = image["bytes"], image.get("path") or ""
        captions: list[str] = []
        for column in self.captions:
            value = row[column]
            captions += [(text or "").strip() for text in ([value] if isinstance(value, str) else value or [])]
        split = self._of_file
        if self._split:
            split = named_split(row[self._split] or "")
            if split is None:
                raise UserError(
                    f"{self.file}, row {number}: split {row[self._split]!r} must be train, val (validation, dev) or "
                    "test. Mend it, or drop the column."
                )
        return Row(image, str(name), captions, split)


def _image_column(file: Path, kinds: dict[str, pa.DataType]) -> str:
    holding = [name for name, kind in kinds.items() if _is_struct_of_bytes(kind)]
    if "image" in kinds and ("image" in holding or _is_bytes(kinds["image"])):
        return "image"
    if len(holding) == 1:
        return holding[0]
    found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())[:500] or "none"
    raise UserError(
        f"{file}: no column 'image' that holds bytes, or structs of bytes and path (found {found}). Rename the column "
        "of the images."
    )


def _caption_columns(file: Path, kinds: dict[str, pa.DataType]) -> list[str]:
    for pattern in _CAPTIONS:
        found = [name for name in kinds if re.fullmatch(pattern, name)]
        for name in found:
            if not (is_text(kinds[name]) or (_is_list(kinds[name]) and is_text(kinds[name].value_type))):
                raise UserError(
                    f"{file}: the column {name!r} holds {str(kinds[name])[:200]}; captions must be strings, or lists "
                    "of such. Convert the column, or give it another name."
                )
        if found:
            return found
    return []


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _broken(file: Path, error: Exception) -> UserError:
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return unreadable(file, error)
    return UserError(f"{file}: not a readable Parquet file ({' '.join(str(error).split())[:300]}). Bring it again.")
