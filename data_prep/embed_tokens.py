"""Encode the words and cells of a corpus into its embedding set, in shards, going on where an earlier run stopped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data_prep.datasets.corpus import Corpus
from data_prep.kept import KeptWork
from data_prep.local import Local, LocalEncoder
from data_prep.progress import progress_bar
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import write_tokens
from rank_xmodal.errors import UserError
from rank_xmodal.files.tensors import read_checked, read_tensors, write_checked

_OURS = re.compile(r"(image|text)-\d{9}\.safetensors")
_SHARD = 256  # images or captions in a file
_CLOSE = 2e-3  # of an embedding's entries in float16: what the parts are pooled to must be the set's own


def embed_tokens(
    corpus: Corpus,
    local: LocalEncoder,
    data: EmbeddingSet,
    *,
    batch_size: int = 64,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Encode all images, then all captions, and add their parts to the set that `embed` made of this corpus.

    Shards are kept in `.NAME.tokens` beside the set until it is whole; the same call goes on from them. Tokens of
    another path that the set already has are replaced.

    Raises
    ------
    UserError
        If the set is not of this corpus and encoder, the disk has no room, an image can't be read, or another process
        is at it.
    """
    assert data.root is not None
    facts = {**local.image_facts, "normalised": local.normalised}
    work = KeptWork(data.root, "tokens", {"format": 1, "fingerprint": data.fingerprint, **facts}, _OURS, say)
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
    with work:
        place = work.folder
        paths = corpus.paths()

        def images(part: slice) -> Local:
            names = [str(path) for path in paths[part]]
            return local.images(torch.stack([local.encoder.load_image(path) for path in paths[part]]), names)

        sides = (
            ("image", len(paths), images, data.image_emb),
            ("text", len(texts), lambda p: local.texts(texts[p]), data.text_emb),
        )
        for side, count, encode, own in sides:
            with progress_bar(f"{side} tokens", count, say=say) as advance:
                for start in range(0, count, _SHARD):
                    part = slice(start, min(start + _SHARD, count))
                    _shard(place / f"{side}-{start:09d}.safetensors", encode, part, own, batch_size, f"{root}, {side}")
                    advance(part.stop - part.start)
        counts = [count for one in _shards(place, "text") for count in one["counts"].tolist()]
        offsets = np.cumsum([0, *counts], dtype=np.int64)
        written = write_tokens(
            data,
            (one["parts"].numpy().reshape(-1, cells, local.image_width) for one in _shards(place, "image")),
            (one["parts"].numpy() for one in _shards(place, "text")),
            offsets, (len(paths), cells, local.image_width, local.text_width), facts,
        )  # fmt: skip
        work.remove()
    return written


def _same(one: pd.DataFrame, other: pd.DataFrame, column: str) -> bool:
    return one[column].tolist() == other[column].tolist()


def _shard(
    path: Path, encode: Callable[[slice], Local], part: slice, own: np.ndarray, batch_size: int, where: str
) -> None:
    """Encode a shard, unless it is there and whole."""
    if path.is_file():
        with suppress(UserError):  # cut short; made again
            read_checked(path)
            return
    parts, counts = [], []
    for start in range(part.start, part.stop, batch_size):
        batch = slice(start, min(start + batch_size, part.stop))
        found = encode(batch)
        off = float((found.pooled.cpu() - torch.from_numpy(np.array(own[batch])).float()).abs().max())
        if off > _CLOSE:
            raise UserError(
                f"{where} rows {start} to {batch.stop - 1}: what these tokens are pooled to is {off:.4f} off the "
                "embeddings: another encoder or precision made them. Embed the set again, or name its encoder."
            )
        parts += [one.half().cpu() for one in found.parts]
        counts += [len(one) for one in found.parts]
    write_checked(path, {"parts": torch.cat(parts), "counts": torch.tensor(counts)})


def _shards(place: Path, side: str) -> Iterator[dict[str, torch.Tensor]]:
    for path in sorted(place.glob(f"{side}-*.safetensors")):
        yield read_tensors(path)
