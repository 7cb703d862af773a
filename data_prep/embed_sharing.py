"""Encoding by several workers, each with a model of its own: the embeddings are those of one alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.broken import Broken
from data_prep.computing import computed, threads_for
from data_prep.embed_images import batches_of, encoded, file_error, header_error, to_encode
from data_prep.encoder import Encoder, load_encoder, weights_named
from data_prep.partial import Side
from data_prep.progress import StageTimes, progress_bar
from data_prep.weights import add_config
from rank_xmodal.errors import UserError
from rank_xmodal.parallel import Executor

_BATCHES = 16  # that a worker is given at a time; what is kept when a worker dies or the run is stopped
_HEADS = 2_048  # files whose beginnings are looked at by a worker at a time


@dataclass
class _Encoded:
    """What a worker made of some items: their embeddings, or which of their files are broken."""

    rows: np.ndarray
    broken: dict[int, UserError] = field(default_factory=dict)
    truncated: int = 0
    times: StageTimes = field(default_factory=lambda: StageTimes(""))


class Sharing:
    """Encodes images and captions by the workers of an executor.

    Parameters
    ----------
    executor : Executor
    encoder : Encoder
        Whose like each worker loads.
    batch_size : int
    readers : int
        Threads that read images in each worker.
    device : str
        What this process was asked for; "auto" is a worker's own.
    """

    def __init__(self, executor: Executor, encoder: Encoder, batch_size: int, readers: int, device: str) -> None:
        self.executor, self.batch_size, self.encoder = executor, batch_size, encoder
        self._gpu, self._load = on_workers(encoder, executor, device)
        self._readers = readers

    def images(
        self,
        paths: Sequence[Path],
        keys: Mapping[int, bytes],
        side: Side,
        broken: Broken,
        progress: bool,
        say: Callable[[str], None],
    ) -> StageTimes:
        """Encode what `side` does not have yet; as `encode_images`, whose batches these are."""
        times, count = StageTimes("images"), len(set(keys.values()))
        todo = to_encode(keys, side, say)
        heads: dict[int, str] = {}
        files = [[(row, paths[row].absolute()) for row in part] for part in _cut(todo, _HEADS)]
        for finished in self.executor.map(partial(_looking, broken.skip), files):
            heads |= finished.get()
        broken.found(heads)
        todo = [row for row in todo if row not in broken.why]
        with progress_bar("images", count, count - len(todo), say, progress) as advance:
            while todo:
                todo = self._until_broken(todo, paths, keys, side, broken, times, advance)
        bad = {keys[row]: why for row, why in broken.why.items() if row in keys}
        broken.why.update({row: bad[key] for row, key in keys.items() if key in bad})
        return times

    def _until_broken(
        self,
        todo: Sequence[int],
        paths: Sequence[Path],
        keys: Mapping[int, bytes],
        side: Side,
        broken: Broken,
        times: StageTimes,
        advance: Callable[[int], None],
    ) -> list[int]:
        """Encode up to the first part with a file that can't be decoded, and return what is left to do without it.

        Batches are filled from images that can be read: behind a broken one they are others than were handed out, and
        in the last bit their embeddings might be, too. Where such files may be left out, they were looked for before.
        """
        parts = _cut(todo, _BATCHES * self.batch_size)
        files = ([(row, paths[row].absolute()) for row in part] for part in parts)
        open_ = partial(_encoding, self._load, self.batch_size, self._readers)
        for part, found in zip(parts, _in_order(self.executor.map(open_, files, gpu=self._gpu)), strict=True):
            for row, error in sorted(found.broken.items()):
                broken.found_late(row, error)
            if found.broken:
                left = todo[todo.index(part[0]) :]
                return [row for row in left if row not in broken.why]
            _append(side, [keys[row] for row in part], found, times)
            advance(len(part))
        return []

    def texts(
        self,
        texts: Sequence[str],
        keys: Sequence[bytes],
        todo: Sequence[int],
        side: Side,
        advance: Callable[[int], None],
    ) -> StageTimes:
        """Encode the captions at `todo`."""
        times = StageTimes("captions")
        parts = _cut(todo, _BATCHES * self.batch_size)
        open_ = partial(_encoding_texts, self._load, self.batch_size)
        given = ([texts[row] for row in part] for part in parts)
        for part, found in zip(parts, _in_order(self.executor.map(open_, given, gpu=self._gpu)), strict=True):
            _append(side, [keys[row] for row in part], found, times)
            self.encoder.truncated += found.truncated
            advance(len(part))
        return times


def on_workers(encoder: Encoder, executor: Executor, device: str) -> tuple[bool, Callable[[], Encoder]]:
    """Return whether an executor's workers compute on a GPU, and what loads the like of an encoder in one of them."""
    config = json.dumps(encoder.config, sort_keys=True) if encoder.config else ""
    weights = weights_named(encoder.pretrained, encoder.weights_file)
    device = executor.device(device)
    return device != "cpu", partial(_loaded, encoder.name, weights, config, device, encoder.precision)


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _append(side: Side, keys: Sequence[bytes], found: _Encoded, times: StageTimes) -> None:
    start = time.monotonic()
    side.append(keys, found.rows)
    times.items += len(keys)
    times.read += found.times.read
    times.compute += found.times.compute
    times.write += time.monotonic() - start


def _in_order(finished: Iterator[Any]) -> Iterator[_Encoded]:
    """Yield the results of parts as they stand, not as they end: a stopped run has whole batches, none twice."""
    waiting: dict[int, _Encoded] = {}
    number = 0
    for one in finished:
        waiting[one.number] = one.get()
        while number in waiting:
            yield waiting.pop(number)
            number += 1


@lru_cache(maxsize=1)
def _loaded(name: str, weights: str, config: str, device: str, precision: str) -> Encoder:
    """Return the encoder, loaded once in a worker."""
    if config:
        add_config(name, json.loads(config), name)
    return load_encoder(name, weights, None if device == "auto" else device, precision, say=lambda line: None)


def _looking(wholly: bool) -> Callable[[list[tuple[int, Path]]], dict[int, str]]:
    """Return what finds the broken among files, by their beginnings or wholly."""
    look = file_error if wholly else header_error
    return lambda files: {row: why for row, path in files if (why := look(path))}


def _encoding(
    load: Callable[[], Encoder], batch_size: int, readers: int
) -> Callable[[list[tuple[int, Path]]], _Encoded]:
    return partial(_encode, load(), batch_size, readers)


def _encode(encoder: Encoder, batch_size: int, readers: int, files: list[tuple[int, Path]]) -> _Encoded:
    found = _Encoded(np.empty((0, encoder.dim), dtype=np.float16))
    paths = dict(files)
    with ThreadPoolExecutor(readers, thread_name_prefix="read-image") as pool:
        batches = batches_of(pool, paths, [*paths], encoder, found.broken.__setitem__, batch_size, found.times)
        start = time.monotonic()
        parts = [rows for _, rows in encoded(encoder, paths, batches)]
        found.times.compute = time.monotonic() - start - found.times.read
    found.rows = np.concatenate([found.rows, *parts])
    return found


def _encoding_texts(load: Callable[[], Encoder], batch_size: int) -> Callable[[list[str]], _Encoded]:
    return partial(_encode_texts, load(), batch_size)


def _encode_texts(encoder: Encoder, batch_size: int, texts: list[str]) -> _Encoded:
    start, cut = time.monotonic(), encoder.truncated
    parts = [texts[at : at + batch_size] for at in range(0, len(texts), batch_size)]
    rows = [*computed(encoder.encode_texts, parts, threads_for(encoder.device))]
    found = _Encoded(np.concatenate(rows), truncated=encoder.truncated - cut)
    found.times.compute = time.monotonic() - start
    return found
