"""Encode a corpus into an embedding set, in batches, resuming where an earlier run stopped."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.datasets.corpus import Corpus
from data_prep.encoder import Encoder
from data_prep.images import check_header, files_digest
from data_prep.partial import Partial, Side
from data_prep.progress import progress_bar
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, recover

_AHEAD = 3  # batches of pixels in memory at a time, beside the one being encoded


@dataclass
class StageTimes:
    """Where the time of a stage went, in seconds; the largest is what limits the run."""

    label: str
    items: int = 0
    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0

    def __str__(self) -> str:
        total = self.read + self.compute + self.write
        return (
            f"{self.label}: {self.items:,} encoded in {total:.1f} s ({self.items / max(total, 1e-9):,.0f}/s): "
            f"waiting for files {self.read:.1f} s, model {self.compute:.1f} s, writing {self.write:.1f} s"
        )


def embed(
    corpus: Corpus,
    encoder: Encoder,
    out: Path | str,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    overwrite: bool = False,
    name: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Encode images, then captions, and write the embedding set.

    Pixels are read by `workers` threads while the model computes; a few batches of them are in memory at a time. An
    interrupted run (Ctrl-C, a full disk, a broken image) leaves nothing at `out` and its work in `.NAME.partial`
    beside it; the same call goes on from there, and with the same batch size ends in the same bits.

    Parameters
    ----------
    corpus : Corpus
    encoder : Encoder
    out : Path
        The folder to be made. If it holds the finished set of this very corpus and encoder, that is returned.
    batch_size : int, at least 1
    workers : int, optional
        Threads that read images; the number of cores, at most 8, if not given.
    overwrite : bool
        Replace another embedding set at `out`.
    name : str, optional
        What tables call the set; the folder's name if not given.
    progress : bool
        Show a bar on a terminal and plain lines elsewhere.
    say : callable
        Takes each line of the report.

    Raises
    ------
    UserError
        If an image is missing, cut short or no image, an embedding isn't finite, the disk is full, `out` holds
        something else, or another process is at it.
    """
    out = Path(out)
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: must be 1 or more.")
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: must be 1 or more.")
    workers = workers or min(8, os.cpu_count() or 1)
    _check_corpus(corpus)
    paths = corpus.paths()
    sizes, image_keys = _image_keys(corpus, paths)
    set_key = _set_key(corpus, encoder, sizes)
    recover(out.resolve().parent)
    partial = Partial(out, encoder.identity, encoder.dim, say)
    finished = _finished(out, set_key)
    if finished is not None and not overwrite:
        say(f"{out}: already holds these embeddings; nothing to do")
        partial.discard()
        return finished
    check_replaceable(out, overwrite)
    text_keys = [_digest("text", text) for text in corpus.texts["text"]]
    with partial:
        check_replaceable(out, overwrite)  # another process may have finished meanwhile
        images, texts = partial.open("image"), partial.open("text")
        times = [
            _encode_images(corpus, paths, image_keys, encoder, images, batch_size, workers, progress, say),
            _encode_texts(corpus, text_keys, encoder, texts, batch_size, progress, say),
        ]
        start = time.monotonic()
        table = corpus.images.assign(path=[str(path.resolve()) for path in paths])
        meta: dict[str, Any] = {
            "name": name or out.name,
            **encoder.identity,
            "dataset": corpus.name,
            "embed_key": set_key,
            "image_files": {split: files_digest(rows["path"]) for split, rows in table.groupby("split")},
            **({"weights_file": encoder.weights_file} if encoder.weights_file else {}),
        }
        written = EmbeddingSet(
            images.gather(image_keys, partial.folder / "image.ordered"),
            texts.gather(text_keys, partial.folder / "text.ordered"),
            table,
            corpus.texts,
            corpus.relevance,
            meta,
        ).write(out)
        partial.remove()
    for stage in times:
        say(str(stage))
    say(
        f"{out}: {len(written.images):,} images and {len(written.texts):,} captions, {written.dim} wide "
        f"(checked and written in {time.monotonic() - start:.1f} s)"
    )
    return written


def _check_corpus(corpus: Corpus) -> None:
    """Find now what the embedding set would refuse after hours of encoding."""
    for side, table in (("image", corpus.images), ("text", corpus.texts)):
        ids = table[f"{side}_id"].astype(str)
        if not len(ids):
            raise UserError(f"{corpus.name}: there are no {side}s.")
        if ids.duplicated().any():
            raise UserError(
                f"{corpus.name}: {side}_id {ids[ids.duplicated()].iloc[0]!r} occurs twice. Make ids unique."
            )
    empty = np.flatnonzero((corpus.texts["text"].astype(str).str.strip() == "").to_numpy())
    if len(empty):
        name = corpus.texts["text_id"].iloc[empty[0]]
        raise UserError(f"{corpus.name}: text {name!r} (row {empty[0]}) is an empty caption. Write one or delete it.")


def _finished(out: Path, set_key: str) -> EmbeddingSet | None:
    try:
        meta = read_json(out / "meta.json")
    except (UserError, OSError):
        return None
    if not isinstance(meta, dict) or meta.get("embed_key") != set_key:
        return None
    try:
        return EmbeddingSet.open(out)
    except UserError as error:
        raise UserError(f"{error} Run again with --overwrite.") from error


def _image_keys(corpus: Corpus, paths: Sequence[Path]) -> tuple[list[int], list[bytes]]:
    """Return each image's size and key; a file that changed gets another key."""
    sizes, keys, bad = [], [], []
    for row, path in enumerate(paths):
        try:
            facts = path.stat()
        except OSError:
            bad.append((row, "is missing"))
            continue
        if not facts.st_size:
            bad.append((row, "is an empty file"))
        sizes.append(facts.st_size)
        keys.append(_digest("image", str(path.absolute()), str(facts.st_size), str(facts.st_mtime_ns)))
    if bad:
        _broken(corpus, paths, bad)
    return sizes, keys


def _broken(corpus: Corpus, paths: Sequence[Path], bad: Sequence[tuple[int, str]]) -> None:
    ids = corpus.images["image_id"]
    listed = "\n".join(f"  {paths[row]} (image_id {ids.iloc[row]!r}) {why}" for row, why in bad[:5])
    more = f"\n  ... and {len(bad) - 5:,} more" if len(bad) > 5 else ""
    raise UserError(
        f"{corpus.name}: {len(bad):,} image file(s) can't be used. Bring them again or delete their rows.\n"
        f"{listed}{more}"
    )


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()[:16]


def _set_key(corpus: Corpus, encoder: Encoder, sizes: Sequence[int]) -> str:
    """Digest everything that decides the finished set; the image folder may move."""
    digest = hashlib.sha256(repr(sorted(encoder.identity.items())).encode())
    columns = [corpus.images[c] for c in ("image_id", "path", "split")]
    columns += [corpus.texts[c] for c in ("text_id", "text", "split")]
    columns += [table["labels"] for table in (corpus.images, corpus.texts) if "labels" in table]
    for column in columns:
        digest.update("\x1f".join(column.astype(str)).encode("utf-8", "surrogatepass") + b"\x1e")
    digest.update(corpus.relevance[["image", "text", "grade"]].to_numpy(np.int64).tobytes())
    digest.update(np.asarray(sizes, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _todo(keys: Sequence[bytes], side: Side) -> list[int]:
    """Return the rows that are still to be encoded, one for each different key."""
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    return [row for row in sorted(first.values()) if keys[row] not in side]


def _batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def _encode_images(
    corpus: Corpus,
    paths: Sequence[Path],
    keys: Sequence[bytes],
    encoder: Encoder,
    side: Side,
    batch_size: int,
    workers: int,
    progress: bool,
    say: Callable[[str], None],
) -> StageTimes:
    times = StageTimes("images")
    todo = _todo(keys, side)
    if len(todo) < len(set(keys)):
        say(f"images: {len(set(keys)) - len(todo):,} of {len(set(keys)):,} were encoded before; going on")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-image")
    try:
        start = time.monotonic()
        # A text file named .jpg is found now, and not after hours.
        heads = pool.map(lambda row: _header_error(paths[row]), todo, chunksize=1)
        bad = [(row, why) for row, why in zip(todo, heads, strict=True) if why]
        if bad:
            _broken(corpus, paths, bad)
        times.read += time.monotonic() - start

        waiting: deque[tuple[list[int], list[Future[torch.Tensor]]]] = deque()
        batches = _batches(todo, batch_size)
        with progress_bar("images", len(set(keys)), len(set(keys)) - len(todo), say, progress) as advance:
            while True:
                for batch in batches:
                    waiting.append((batch, [pool.submit(encoder.load_image, paths[row]) for row in batch]))
                    if len(waiting) >= _AHEAD:
                        break
                if not waiting:
                    break
                batch, futures = waiting.popleft()
                start = time.monotonic()
                pixels = torch.stack([_result(f, corpus, row) for f, row in zip(futures, batch, strict=True)])
                read = time.monotonic()
                rows = encoder.encode_pixels(pixels, [str(paths[row]) for row in batch])
                computed = time.monotonic()
                side.append([keys[row] for row in batch], rows)
                times.items += len(batch)
                times.read += read - start
                times.compute += computed - read
                times.write += time.monotonic() - computed
                advance(len(batch))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return times


def _header_error(path: Path) -> str:
    try:
        check_header(path)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def _result(future: Future[torch.Tensor], corpus: Corpus, row: int) -> torch.Tensor:
    try:
        return future.result()
    except UserError as error:
        image = corpus.images["image_id"].iloc[row]
        raise UserError(
            f"{error} (image_id {image!r}, row {row} of the images.) What was encoded before is kept."
        ) from error


def _encode_texts(
    corpus: Corpus,
    keys: Sequence[bytes],
    encoder: Encoder,
    side: Side,
    batch_size: int,
    progress: bool,
    say: Callable[[str], None],
) -> StageTimes:
    times = StageTimes("captions")
    todo = _todo(keys, side)
    if len(todo) < len(set(keys)) and len(side):
        say(f"captions: {len(set(keys)) - len(todo):,} of {len(set(keys)):,} were encoded before; going on")
    texts = corpus.texts["text"].tolist()
    cut = encoder.truncated
    with progress_bar("captions", len(set(keys)), len(set(keys)) - len(todo), say, progress) as advance:
        for batch in _batches(todo, batch_size):
            start = time.monotonic()
            rows = encoder.encode_texts([texts[row] for row in batch], batch_size)
            computed = time.monotonic()
            side.append([keys[row] for row in batch], rows)
            times.items += len(batch)
            times.compute += computed - start
            times.write += time.monotonic() - computed
            advance(len(batch))
    if encoder.truncated > cut:
        say(f"captions: {encoder.truncated - cut:,} are longer than {encoder.name} can read; their ends were cut off")
    return times
