"""Encode the words and cells of a corpus into its embedding set, in shards, going on where an earlier run stopped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_prep.computing import computed, threads_for
from data_prep.datasets.corpus import Corpus
from data_prep.embed_sharing import on_workers
from data_prep.encoder import Encoder
from data_prep.kept import KeptWork
from data_prep.local import Local, LocalEncoder
from data_prep.local import Path as TokenPath
from data_prep.progress import progress_bar
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import write_tokens
from rank_xmodal.errors import UserError
from rank_xmodal.files.tensors import read_checked, read_tensors, read_told, write_checked
from rank_xmodal.parallel import Executor, Serial

_OURS = re.compile(r"(image|text)-\d{9}(-[0-9a-f]{8})?\.safetensors")
_BATCHES = 8  # in a file, which are encoded at the same time where there are as many cores
_CLOSE = 2e-3  # of an embedding's entries in float16: what the parts are pooled to must be the set's own

_Encode = Callable[[LocalEncoder, Sequence[Any]], Local]


def embed_tokens(
    corpus: Corpus,
    local: LocalEncoder,
    data: EmbeddingSet,
    *,
    batch_size: int = 64,
    say: Callable[[str], None] = print,
    executor: Executor | None = None,
    device: str = "auto",
) -> EmbeddingSet:
    """Encode all images, then all captions, and add their parts to the set that `embed` made of this corpus.

    Shards are kept in `.NAME.tokens` beside the set until it is whole; the same call goes on from them. Tokens of
    another path that the set already has are replaced. Where an `executor` is given, its workers encode and write the
    shards, each with a model of its own on `device`, as in `embed`; the tokens are the same. On a cluster the set's
    folder lies on a disk that all machines share.

    Raises
    ------
    UserError
        If the set is not of this corpus and encoder, the disk has no room, an image can't be read, another process
        is at it, or a worker doesn't see the set's folder.
    """
    assert data.root is not None
    facts = {**local.image_facts, "normalised": local.normalised}
    kept = {"format": 2, "fingerprint": data.fingerprint, **facts, "shard": _BATCHES * batch_size}
    work = KeptWork(data.root, "tokens", kept, _OURS, say)
    known = data.meta.get("tokens")
    if isinstance(known, dict) and all({"normalised": True, **known}.get(key) == facts[key] for key in facts):
        say(f"{data.root}: already holds these tokens; nothing to do")
        work.discard()
        return data
    inside = set(data.images["image_id"])  # without those that were broken
    corpus = corpus.without([row for row, name in enumerate(corpus.images["image_id"]) if name not in inside])
    if not (_same(corpus.images, data.images, "image_id") and _same(corpus.texts, data.texts, "text")):
        raise UserError(f"{data.root}: is not the set of {corpus.name}. Embed that first.")
    texts, cells = data.texts["text"].tolist(), int(np.prod(facts["grid"]))
    words = local.count_words(texts)
    size = 2 * (len(data.images) * cells * local.image_width + words * local.text_width)
    say(
        f"tokens: {len(data.images):,} images x {cells} cells, {local.image_width} wide, {words:,} words, "
        f"{local.text_width} wide: {size / 1e6:,.1f} MB"
    )
    root = data.root
    if shutil.disk_usage(root).free < 2 * size:
        raise UserError(
            f"{root}: the tokens take {size / 1e6:,.1f} MB, twice that while they are made; the disk has less."
        )
    executor = executor or Serial()
    gpu, load = on_workers(local.encoder, executor, device)
    encoders = executor.owned(local, partial(_again, load, local.path))
    with work:
        paths = [path.absolute() for path in corpus.paths()]
        images = _cut(work, "image", paths, data.image_emb)
        captions = _cut(work, "text", texts, data.text_emb)
        for side, shards, encode in (("image", images, _images), ("text", captions, LocalEncoder.texts)):
            open_ = partial(_encoding, encoders, encode, batch_size)
            with progress_bar(f"{side} tokens", sum(len(one.items) for one in shards), say=say) as advance:
                for finished in executor.map(open_, shards, gpu=gpu):
                    advance(finished.get())
        for one in images:
            read_told(one.path)  # before the set's own tokens are replaced
        counts = [count for one in captions for count in read_tensors(one.path)["counts"].tolist()]
        offsets = np.cumsum([0, *counts], dtype=np.int64)
        written = write_tokens(
            data,
            (read_tensors(one.path)["parts"].numpy().reshape(-1, cells, local.image_width) for one in images),
            (read_tensors(one.path)["parts"].numpy() for one in captions),
            offsets, (len(paths), cells, local.image_width, local.text_width), facts,
        )  # fmt: skip
        work.remove()
    return written


def _same(one: pd.DataFrame, other: pd.DataFrame, column: str) -> bool:
    return one[column].tolist() == other[column].tolist()


@dataclass(frozen=True)
class _Shard:
    """Some images or captions, where their tokens are to be written, and what these must be pooled to."""

    path: Path
    start: int
    items: Sequence[Any]
    own: np.ndarray
    where: str


def _cut(work: KeptWork, side: str, items: Sequence[Any], own: np.ndarray) -> list[_Shard]:
    """Return all shards of a side. Their names tell work of other settings, whose workers may still be writing."""
    size, of = work.settings["shard"], work.digest[:8]
    return [
        _Shard(
            work.folder / f"{side}-{start:09d}-{of}.safetensors", start, items[start : start + size],
            np.asarray(own[start : start + size]), f"{work.out}, {side}",
        )
        for start in range(0, len(items), size)
    ]  # fmt: skip


def _again(load: Callable[[], Encoder], path: TokenPath) -> LocalEncoder:
    return LocalEncoder(load(), path)


def _images(local: LocalEncoder, paths: Sequence[Path]) -> Local:
    return local.images(torch.stack([local.encoder.load_image(path) for path in paths]), [str(path) for path in paths])


def _encoding(encoders: Callable[[], LocalEncoder], encode: _Encode, batch_size: int) -> Callable[[_Shard], int]:
    return partial(_write_shard, encoders(), encode, batch_size)


def _write_shard(local: LocalEncoder, encode: _Encode, batch_size: int, shard: _Shard) -> int:
    """Encode a shard, unless it is there and whole; return how many items it has."""
    KeptWork.check_seen(shard.path.parent)
    if shard.path.is_file():
        with suppress(UserError):  # cut short; made again
            read_checked(shard.path)
            return len(shard.items)
    parts, counts, at = [], [], 0
    batches = [shard.items[start : start + batch_size] for start in range(0, len(shard.items), batch_size)]
    for found in computed(partial(encode, local), batches, threads_for(local.encoder.device)):
        pooled = found.pooled.cpu()
        off = float((pooled - torch.from_numpy(np.array(shard.own[at : at + len(pooled)])).float()).abs().max())
        if off > _CLOSE:
            raise UserError(
                f"{shard.where} rows {shard.start + at} to {shard.start + at + len(pooled) - 1}: what these tokens are "
                f"pooled to is {off:.4f} off the embeddings: another encoder or precision made them. Embed the set "
                "again, or name its encoder."
            )
        parts += [one.half().cpu() for one in found.parts]
        counts += [len(one) for one in found.parts]
        at += len(pooled)
    write_checked(shard.path, {"parts": torch.cat(parts), "counts": torch.tensor(counts)})
    return len(shard.items)
