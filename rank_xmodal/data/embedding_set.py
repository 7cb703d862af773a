"""An embedding set: the images and captions of a corpus, embedded once, and which belongs to which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from rank_xmodal.data.checks import LABELS, check, check_captions, check_labels, check_shapes, classes_of
from rank_xmodal.errors import UserError
from rank_xmodal.files import (
    check_once,
    open_npy,
    read_json,
    read_parquet,
    read_table,
    recover,
    replacing,
    sha256,
    sha256_of,
    write_json,
)
from rank_xmodal.files.reading import frame_of

FORMAT = 1
Direction = Literal["t2i", "i2t"]
DIRECTIONS: tuple[Direction, ...] = ("t2i", "i2t")

_IMAGES = {"image_id": "str", "path": "str", "split": "str"}
_TEXTS = {"text_id": "str", "text": "str", "split": "str"}
_RELEVANCE = {"image": "int32", "text": "int32", "grade": "uint8"}
_WORDS = 65_536  # rows of a table hashed at a time
_LOOKED_UP = 500_000  # pairs whose grades are looked up at a time: each takes some 50 bytes on the way
_FILES = ("meta.json", "image_emb.npy", "text_emb.npy", "images.parquet", "texts.parquet", "relevance.parquet")


def check_direction(direction: str) -> Direction:
    """Return `direction` if it is one of `DIRECTIONS`.

    Raises
    ------
    UserError
        If it is not.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"direction={direction!r}: must be t2i (text to image) or i2t (image to text).")
    return direction


@dataclass(frozen=True)
class EmbeddingSet:
    """Embeddings of images and texts with their tables, as design and disk hold them.

    Attributes
    ----------
    image_emb : ndarray (n_images, d), float16
        L2-normalised rows; memory-mapped when the set was opened from disk. Where the sides are not `aligned`: float32
        as they came.
    text_emb : ndarray (n_texts, d), float16
        Of another width where the sides are not aligned. Of images without captions (0, d): a corpus to search in.
    images : DataFrame with image_id, path, split; row i describes row i of `image_emb`.
    texts : DataFrame with text_id, text, split.
        Of a labelled set both have a column labels, too: the item's class, or several separated by "|". It may be empty
        outside the splits train, val and test only.
    relevance : DataFrame with image, text (rows) and grade (1 or more); many-to-many.
    meta : dict
        format, name, encoder, pretrained, weights_sha256, dim, normalised, dtype, counts, fingerprint; aligned
        (false) and text_dim where the sides are not aligned.
    root : Path or None
        The folder it was opened from.
    kept : Path or None
        The folder where fits on it, or on a part of it, may be kept.
    cut_of : EmbeddingSet or None
        The set whose rows these are, under other splits; see `whole`.
    """

    image_emb: np.ndarray
    text_emb: np.ndarray
    images: pd.DataFrame
    texts: pd.DataFrame
    relevance: pd.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)
    root: Path | None = None
    kept: Path | None = None
    cut_of: EmbeddingSet | None = None

    @property
    def whole(self) -> EmbeddingSet:
        """The set as it lies in its folder, whatever splits this one was given: row for row the same items."""
        return self.cut_of or self

    @property
    def fingerprint(self) -> str:
        """SHA-256 over embeddings, ids, splits and relevance: candidate lists carry it."""
        return str(self.meta["fingerprint"])

    @property
    def dim(self) -> int:
        """Width of an embedding; of an image's, where the sides are not aligned."""
        return int(self.image_emb.shape[1])

    @property
    def dims(self) -> tuple[int, int]:
        """Width of an image's and of a text's embedding."""
        return int(self.image_emb.shape[1]), int(self.text_emb.shape[1])

    @property
    def aligned(self) -> bool:
        """Whether images and texts lie in one space, as one model's do. If not, no cosine says how near two are."""
        return bool(self.meta.get("aligned", True))

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """How embeddings are stored."""
        return np.float16 if self.aligned else np.float32

    @property
    def name(self) -> str:
        """What runs and tables call this set."""
        return str(self.meta.get("name") or (self.root.name if self.root else "embeddings"))

    @property
    def labelled(self) -> bool:
        """Whether its items have classes."""
        return LABELS in self.images and LABELS in self.texts

    @property
    def classes(self) -> list[str]:
        """The names of all classes of a labelled set, sorted."""
        values = {value for table in (self.images, self.texts) for value in table[LABELS].unique()}
        return sorted({name for value in values for name in classes_of(value)})

    @property
    def labels_fingerprint(self) -> str:
        """SHA-256 over the classes of a labelled set: `fingerprint` leaves them out, as no list depends on them."""
        columns = (table[LABELS].astype(str) for table in (self.images, self.texts))
        return sha256(*("\x1f".join(column).encode("utf-8", "surrogatepass") + b"\x1e" for column in columns))

    def queries(self, direction: Direction) -> np.ndarray:
        """Return the embeddings that ask in this direction, (n, d)."""
        return self.text_emb if direction == "t2i" else self.image_emb

    def candidates(self, direction: Direction) -> np.ndarray:
        """Return the embeddings that are ranked in this direction, (m, d)."""
        return self.image_emb if direction == "t2i" else self.text_emb

    def query_rows(self, direction: Direction, split: str) -> np.ndarray:
        """Return the rows (int64, ascending) of this split's queries that have a relevant candidate in the split.

        Raises
        ------
        UserError
            If the set has no captions, or the split's gallery is empty.
        """
        check_captions(self)
        table = self.texts if direction == "t2i" else self.images
        rows = np.flatnonzero((table["split"] == split).to_numpy())
        allowed = np.zeros(len(self.candidates(direction)), dtype=np.int64)
        allowed[self.candidate_rows(direction, split)] = 1
        return rows[self.relevance_matrix(direction)[rows] @ allowed > 0]

    def candidate_rows(self, direction: Direction, split: str) -> np.ndarray:
        """Return the rows (int64, ascending) of this split's gallery.

        Raises
        ------
        UserError
            If the split is empty, or captions are asked for and the set has none.
        """
        if direction == "i2t":
            check_captions(self)
        table = self.images if direction == "t2i" else self.texts
        rows = np.flatnonzero((table["split"] == split).to_numpy())
        if not len(rows):
            found = ", ".join(sorted(set(table["split"]))) or "none"
            raise UserError(
                f"{self.root or self.name}: split {split!r} is empty (splits found: {found}). "
                "Give the captions' split column that value for some rows, or name another split."
            )
        return rows

    def relevance_matrix(self, direction: Direction) -> sp.csr_matrix:
        """Return the grades as a sparse matrix (all queries, all candidates), int64."""
        matrix = self._text_by_image
        return matrix if direction == "t2i" else matrix.T.tocsr()

    def grades(self, direction: Direction, query_rows: np.ndarray, candidate_rows: np.ndarray) -> np.ndarray:
        """Return the grade of each pair, (Q,) and (Q, L) rows -> (Q, L) int8; 0 where none is known, -1 at row -1."""
        matrix = self.relevance_matrix(direction)
        grades = np.empty(candidate_rows.shape, dtype=np.int8)
        step = max(1, _LOOKED_UP // max(1, candidate_rows.shape[-1]))
        for start in range(0, len(grades), step):
            part = slice(start, start + step)
            safe = np.maximum(candidate_rows[part], 0)
            found = np.asarray(matrix[np.repeat(query_rows[part], safe.shape[1]), safe.reshape(-1)])
            grades[part] = np.where(candidate_rows[part] < 0, -1, found.reshape(safe.shape))
        return grades

    @cached_property
    def _text_by_image(self) -> sp.csr_matrix:
        shape = (len(self.texts), len(self.images))
        rel = self.relevance
        return sp.csr_matrix(
            (rel["grade"].to_numpy(np.int64), (rel["text"].to_numpy(), rel["image"].to_numpy())), shape=shape
        )

    def write(self, path: Path) -> EmbeddingSet:
        """Check the set, write it as a folder, whole or not at all, and return it opened from there.

        Raises
        ------
        UserError
            If an embedding is not finite, or zero or not L2-normalised where the sides are aligned, an id occurs
            twice, a caption is empty, a relevance row points nowhere, or an item of a labelled set has no class.
        """
        path = Path(path)
        check(self, str(path))
        extra = [LABELS] if self.labelled else []
        images = self.images.assign(path=self.images["path"].fillna(""))[[*_IMAGES, *extra]].astype(_IMAGES)
        texts = self.texts[[*_TEXTS, *extra]].astype(_TEXTS)
        with replacing(path) as part:
            part.mkdir()
            np.save(part / "image_emb.npy", np.ascontiguousarray(self.image_emb, dtype=self.dtype))
            np.save(part / "text_emb.npy", np.ascontiguousarray(self.text_emb, dtype=self.dtype))
            images.to_parquet(part / "images.parquet", index=False, write_page_checksum=True)
            texts.to_parquet(part / "texts.parquet", index=False, write_page_checksum=True)
            self.relevance.astype(_RELEVANCE).to_parquet(part / "relevance.parquet", index=False)
            counts = {
                split: {
                    "images": int((self.images["split"] == split).sum()),
                    "texts": int((self.texts["split"] == split).sum()),
                }
                for split in sorted({*self.images["split"], *self.texts["split"]})
            }
            facts = {
                "format": FORMAT,
                "dim": self.dim,
                **({} if self.aligned else {"aligned": False, "text_dim": self.dims[1]}),
                "normalised": self.aligned,
                "dtype": np.dtype(self.dtype).name,
                "counts": counts,
                "fingerprint": fingerprint_of(replace(self, images=images, texts=texts)),
            }
            write_json(part / "meta.json", {"name": path.name, **self.meta, **facts})
        return EmbeddingSet.open(path)

    @classmethod
    def open(cls, path: Path | str) -> EmbeddingSet:
        """Open a folder that `write` made; embeddings stay on disk, memory-mapped.

        The first time that a process opens it, everything is read and compared with the fingerprint: damaged embeddings
        would go through all that follows unnoticed. That takes as long as a SHA-256 of them, some 0.9 s a gigabyte.

        Raises
        ------
        UserError
            If something is missing, broken, of another format, doesn't fit together, or isn't what was written.
        """
        path = Path(path)
        if not path.is_dir():
            recover(path.resolve().parent)  # a process that was killed while replacing it
        if not path.is_dir():
            raise UserError(f"{path}: no such folder. Make an embedding set with `rank-xmodal embed` or `import`.")
        meta = read_json(path / "meta.json")
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            found = meta.get("format") if isinstance(meta, dict) else None
            raise UserError(
                f"{path / 'meta.json'}: format {found!r}; this version reads format {FORMAT}. Embed or import again."
            )
        opened = cls(
            image_emb=_load(path / "image_emb.npy", meta),
            text_emb=_load(path / "text_emb.npy", meta),
            images=_read_items(path / "images.parquet", _IMAGES, "images"),
            texts=_read_items(path / "texts.parquet", _TEXTS, "texts"),
            relevance=read_table(path / "relevance.parquet", _RELEVANCE, "relevances"),
            meta=meta,
            root=path,
            kept=path,
        )
        check_shapes(opened, str(path))
        check_labels(opened, str(path))
        for side, found, told in zip(
            ("image", "text"), opened.dims, (meta.get("dim"), meta.get("text_dim", meta.get("dim"))), strict=True
        ):
            if found != told:
                raise UserError(
                    f"{path}: {side} embeddings are {found} wide, meta.json says {told}. Embed or import again."
                )
        check_once([path / name for name in _FILES], lambda: _verify(opened, path))
        return opened


def _verify(data: EmbeddingSet, path: Path) -> None:
    """Compare a set with its fingerprint."""
    said, found = data.meta.get("fingerprint"), fingerprint_of(data)
    if said != found:
        raise UserError(
            f"{path}: damaged, or changed by hand: meta.json has the fingerprint {str(said)[:12]}, its files have "
            f"{found[:12]}. Bring them again from a copy, or embed or import again."
        )


def _load(path: Path, meta: dict[str, Any]) -> np.ndarray:
    array, kind = open_npy(path, "Embed or import again."), "float16" if meta.get("aligned", True) else "float32"
    if array.dtype != np.dtype(kind) or array.ndim != 2:
        raise UserError(f"{path}: expected (n, d) {kind}, found {array.shape} {array.dtype}. Embed or import again.")
    return array


def _read_items(path: Path, columns: dict[str, str], what: str) -> pd.DataFrame:
    table = read_parquet(path)
    frame = frame_of(table, path, columns, what, gaps=("path",))  # an image may lie nowhere
    if LABELS in table.column_names:
        # As they are: a missing one must not become the class "None".
        frame[LABELS] = pd.Series(table[LABELS].to_pylist(), dtype=object)
    return frame


def fingerprint_of(data: EmbeddingSet) -> str:
    """Return the SHA-256 of embeddings, relevance, ids, captions and splits, whatever the set's meta says."""
    return sha256_of(_told(data))


def _told(data: EmbeddingSet) -> Iterator[Any]:
    yield np.ascontiguousarray(data.image_emb, dtype=data.dtype)
    yield np.ascontiguousarray(data.text_emb, dtype=data.dtype)
    yield np.ascontiguousarray(data.relevance[["image", "text", "grade"]].to_numpy(np.int64))
    for table, columns in ((data.images, ("image_id", "split")), (data.texts, ("text_id", "text", "split"))):
        for column in columns:
            for start in range(0, len(table), _WORDS):  # a column of a million captions as one text takes its memory
                words = map(str, table[column].iloc[start : start + _WORDS].tolist())
                between = "\x1f" if start else ""
                yield (between + "\x1f".join(words)).encode("utf-8", "surrogatepass")
            yield b"\x1e"
