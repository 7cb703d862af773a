"""Encode a corpus into an embedding set, in batches, resuming where an earlier run stopped."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.broken import Broken
from data_prep.computing import computed, threads_for
from data_prep.datasets.corpus import Corpus
from data_prep.embed_images import encode_images
from data_prep.embed_sharing import Sharing
from data_prep.encoder import Encoder
from data_prep.image_root import moved, stored_paths
from data_prep.partial import Partial, Side
from data_prep.progress import StageTimes, progress_bar
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, recover
from rank_xmodal.parallel import Executor, Serial


def embed(
    corpus: Corpus,
    encoder: Encoder,
    out: Path | str,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    overwrite: bool = False,
    skip_broken: bool = False,
    name: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
    executor: Executor | None = None,
    device: str = "auto",
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
    skip_broken : bool
        Leave out images whose files are missing, damaged or no images, and the captions that describe no other, and say
        which. The set is that of the corpus without them.
    name : str, optional
        What tables call the set; the folder's name if not given.
    progress : bool
        Show a bar on a terminal and plain lines elsewhere.
    say : callable
        Takes each line of the report.
    executor : Executor, optional
        Whose workers encode, each with a model of its own; this process if not given. The set is the same.
    device : str
        Where its workers compute; "auto" is each one's own. The precision is the encoder's.

    Raises
    ------
    UserError
        If an image is missing, cut short or no image and may not be left out, or all are, an embedding isn't finite,
        the disk is full, `out` holds something else, or another process is at it.
    """
    out = Path(out)
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: must be 1 or more.")
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: must be 1 or more.")
    workers = workers or min(8, os.cpu_count() or 1)
    _check_corpus(corpus)
    paths = corpus.paths()
    broken = Broken(corpus, paths, skip_broken)
    sizes, image_keys = _image_keys(paths, broken)
    asked = _set_key(corpus, encoder, sizes)
    recover(out.resolve().parent)
    partial = Partial(out, encoder.identity, encoder.dim, say)
    finished = _finished(out, asked, skip_broken)
    if finished is not None and not overwrite:
        skipped = finished.meta.get("skipped")
        without = f" (without {skipped.get('images')} broken images)" if isinstance(skipped, dict) else ""
        say(f"{out}: already holds these embeddings{without}; nothing to do")
        _tell_newer(paths, out, say)
        partial.discard()
        return moved(finished, corpus, say)
    check_replaceable(out, overwrite)
    with partial:
        check_replaceable(out, overwrite)  # another process may have finished meanwhile
        images, texts = partial.open("image"), partial.open("text")
        sharing = None
        if executor is not None and executor.name != Serial.name:
            sharing = Sharing(executor, encoder, batch_size, max(1, workers // executor.workers), device)
            times = [sharing.images(paths, image_keys, images, broken, progress, say)]
        else:
            times = [encode_images(paths, image_keys, encoder, images, broken, batch_size, workers, progress, say)]
        rest = broken.rest()
        text_keys = [_digest("text", text) for text in rest.texts["text"]]
        times.append(_encode_texts(rest, text_keys, encoder, texts, batch_size, progress, say, sharing))
        start = time.monotonic()
        kept = [row for row in range(len(paths)) if row not in broken.why]
        table, places = stored_paths(rest, out)
        meta: dict[str, Any] = {
            "name": name or out.name,
            **encoder.identity,
            "dataset": corpus.name,
            "embed_key": _set_key(rest, encoder, [sizes[row] for row in kept]),
            **places,
            **({"weights_file": encoder.weights_file} if encoder.weights_file else {}),
        }
        lost = len(corpus.texts) - len(rest.texts)
        if broken.why:
            meta["skipped"] = {"images": len(broken.why), "captions": lost, "of": asked}
        written = EmbeddingSet(
            images.gather([image_keys[row] for row in kept], partial.folder / "image.ordered"),
            texts.gather(text_keys, partial.folder / "text.ordered"),
            table,
            rest.texts,
            rest.relevance,
            meta,
        ).write(out)
        partial.remove()
    for stage in times[: None if len(rest.texts) else 1]:
        say(str(stage))
    broken.tell(say, lost)
    say(
        f"{out}: {len(written.images):,} images and {len(written.texts):,} captions, {written.dim} wide "
        f"(checked and written in {time.monotonic() - start:.1f} s)"
    )
    return written


def _check_corpus(corpus: Corpus) -> None:
    """Find now what the embedding set would refuse after hours of encoding."""
    for side, table in (("image", corpus.images), ("text", corpus.texts)):
        ids = table[f"{side}_id"].astype(str)
        if not len(ids) and (side == "image" or len(corpus.relevance)):  # images alone are a corpus to search in
            raise UserError(f"{corpus.name}: there are no {side}s.")
        if ids.duplicated().any():
            raise UserError(
                f"{corpus.name}: {side}_id {ids[ids.duplicated()].iloc[0]!r} occurs twice. Make ids unique."
            )
    empty = np.flatnonzero((corpus.texts["text"].astype(str).str.strip() == "").to_numpy())
    if len(empty):
        name = corpus.texts["text_id"].iloc[empty[0]]
        raise UserError(f"{corpus.name}: text {name!r} (row {empty[0]}) is an empty caption. Write one or delete it.")


def _finished(out: Path, asked: str, skip_broken: bool) -> EmbeddingSet | None:
    try:
        meta = read_json(out / "meta.json")
    except (UserError, OSError):
        return None
    if not isinstance(meta, dict):
        return None
    skipped = meta.get("skipped")
    left_out = skip_broken and isinstance(skipped, dict) and skipped.get("of") == asked
    if meta.get("embed_key") != asked and not left_out:
        return None
    try:
        return EmbeddingSet.open(out)
    except UserError as error:
        raise UserError(f"{error} Run again with --overwrite.") from error


def _tell_newer(paths: Sequence[Path], out: Path, say: Callable[[str], None]) -> None:
    """Say which image files were written after the set was: one that was turned or mended may have kept its size."""
    made = (out / "image_emb.npy").stat().st_mtime
    newer = [path for path in paths if os.path.isfile(path) and path.stat().st_mtime > made]
    if newer:
        say(
            f"{out}: {len(newer):,} image file(s) are newer than it, {newer[0]} among them. If they show something "
            "else now, embed again with --overwrite."
        )


def _image_keys(paths: Sequence[Path], broken: Broken) -> tuple[list[int], dict[int, bytes]]:
    """Return each image's size (-1 if it is missing), and the key of each that isn't empty; a changed file has another.

    Raises
    ------
    UserError
        If files are missing or empty and may not be left out.
    """
    sizes: list[int] = []
    keys: dict[int, bytes] = {}
    bad: dict[int, str] = {}
    for row, path in enumerate(paths):
        try:
            facts = path.stat()
        except (OSError, ValueError):  # a name that is too long, links in a circle
            bad[row] = "is missing"
            sizes.append(-1)
            continue
        sizes.append(facts.st_size)
        if facts.st_size:
            keys[row] = _digest("image", str(path.absolute()), str(facts.st_size), str(facts.st_mtime_ns))
        else:
            bad[row] = "is an empty file"
    broken.found(bad)
    return sizes, keys


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


def _encode_texts(
    corpus: Corpus,
    keys: Sequence[bytes],
    encoder: Encoder,
    side: Side,
    batch_size: int,
    progress: bool,
    say: Callable[[str], None],
    sharing: Sharing | None,
) -> StageTimes:
    times = StageTimes("captions")
    todo = _todo(keys, side)
    if len(todo) < len(set(keys)) and len(side):
        say(f"captions: {len(set(keys)) - len(todo):,} of {len(set(keys)):,} were encoded before; going on")
    texts = corpus.texts["text"].tolist()
    cut = encoder.truncated
    with progress_bar("captions", len(set(keys)), len(set(keys)) - len(todo), say, progress) as advance:
        if sharing is not None:
            times = sharing.texts(texts, keys, todo, side, advance)
            todo = []

        def work(batch: list[int]) -> tuple[list[int], np.ndarray]:
            return batch, encoder.encode_texts([texts[row] for row in batch], batch_size)

        start = time.monotonic()
        for batch, rows in computed(work, _batches(todo, batch_size), threads_for(encoder.device)):
            got = time.monotonic()
            side.append([keys[row] for row in batch], rows)
            times.items += len(batch)
            times.compute += got - start
            start = time.monotonic()
            times.write += start - got
            advance(len(batch))
    if encoder.truncated > cut:
        say(f"captions: {encoder.truncated - cut:,} are longer than {encoder.name} can read; their ends were cut off")
    return times
