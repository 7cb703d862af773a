"""Reading images in threads, ahead of the model, and encoding them in batches."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from data_prep.broken import Broken, reason
from data_prep.computing import computed, threads_for
from data_prep.encoder import Encoder
from data_prep.images import check_header, read_image
from data_prep.partial import Side
from data_prep.progress import StageTimes, progress_bar
from rank_xmodal.errors import UserError

_AHEAD = 3  # batches of pixels in memory at a time, beside the one being encoded


def encode_images(
    paths: Sequence[Path],
    keys: Mapping[int, bytes],
    encoder: Encoder,
    side: Side,
    broken: Broken,
    batch_size: int,
    workers: int,
    progress: bool,
    say: Callable[[str], None],
) -> StageTimes:
    """Encode what `side` does not have yet.

    Batches are filled from images that can be read, so those of a corpus with broken files are those of one without
    them, and the embeddings the same bits.

    Parameters
    ----------
    paths : sequence of Path
    keys : mapping of int to bytes
        The key of each row that is to be encoded; rows of one key are one image.
    encoder : Encoder
    side : Side
        Takes the embeddings.
    broken : Broken
        Told of files that can't be used.
    """
    times = StageTimes("images")
    todo, count = to_encode(keys, side, say), len(set(keys.values()))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-image")
    try:
        start = time.monotonic()
        # A text file named .jpg is found now, and not after hours.
        heads = pool.map(lambda row: header_error(paths[row]), todo, chunksize=1)
        broken.found({row: why for row, why in zip(todo, heads, strict=True) if why})
        times.read += time.monotonic() - start
        todo = [row for row in todo if row not in broken.why]
        with progress_bar("images", count, count - len(todo), say, progress) as advance:
            batches = batches_of(pool, paths, todo, encoder, broken.found_late, batch_size, times)
            waited, start = times.read, time.monotonic()
            for rows, found in encoded(encoder, paths, batches):
                got = time.monotonic()
                times.compute += got - start - (times.read - waited)  # some of it passed in waiting for files
                side.append([keys[row] for row in rows], found)
                times.items += len(rows)
                advance(len(rows))
                waited, start = times.read, time.monotonic()
                times.write += start - got
        bad = {keys[row]: why for row, why in broken.why.items() if row in keys}
        broken.why.update({row: bad[key] for row, key in keys.items() if key in bad})
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return times


def encoded(
    encoder: Encoder,
    paths: Sequence[Path] | Mapping[int, Path],
    batches: Iterator[tuple[list[int], torch.Tensor]],
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield rows and their embeddings, (n, d) float16."""

    def work(batch: tuple[list[int], torch.Tensor]) -> tuple[list[int], np.ndarray]:
        rows, pixels = batch
        return rows, encoder.encode_pixels(pixels, [str(paths[row]) for row in rows])

    return computed(work, batches, threads_for(encoder.device))


def to_encode(keys: Mapping[int, bytes], side: Side, say: Callable[[str], None]) -> list[int]:
    """Return the rows that `side` has not, ascending, one for each key; say how many it has."""
    first = {key: row for row, key in reversed(list(keys.items()))}
    todo = [row for row in sorted(first.values()) if keys[row] not in side]
    if len(todo) < len(first):
        say(f"images: {len(first) - len(todo):,} of {len(first):,} were encoded before; going on")
    return todo


def batches_of(
    pool: ThreadPoolExecutor,
    paths: Sequence[Path] | Mapping[int, Path],
    todo: Sequence[int],
    encoder: Encoder,
    broken: Callable[[int, UserError], None],
    size: int,
    times: StageTimes,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield rows and their pixels, `size` at a time but for the last; `broken` is told of files that can't be read."""
    rows: list[int] = []
    pixels: list[torch.Tensor] = []
    for row, future in _ahead(pool, paths, todo, encoder, _AHEAD * size):
        start = time.monotonic()
        try:
            pixels.append(future.result())
            rows.append(row)
        except UserError as error:
            broken(row, error)
        times.read += time.monotonic() - start
        if len(rows) == size:
            yield rows, torch.stack(pixels)
            rows, pixels = [], []
    if rows:
        yield rows, torch.stack(pixels)


def _ahead(
    pool: ThreadPoolExecutor,
    paths: Sequence[Path] | Mapping[int, Path],
    todo: Sequence[int],
    encoder: Encoder,
    most: int,
) -> Iterator[tuple[int, Future[torch.Tensor]]]:
    waiting: deque[tuple[int, Future[torch.Tensor]]] = deque()
    for row in todo:
        waiting.append((row, pool.submit(encoder.load_image, paths[row])))
        if len(waiting) >= most:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def file_error(path: Path) -> str:
    """Return what is wrong with a file that can't be decoded; "" if nothing is."""
    try:
        read_image(path)
    except UserError as error:
        return reason(path, error)
    return ""


def header_error(path: Path) -> str:
    """Return what is wrong with a file that begins like no image; "" if nothing is."""
    try:
        check_header(path)
    except UserError as error:
        return reason(path, error)
    return ""
