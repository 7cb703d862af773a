"""Encode the words and cells of a corpus into its embedding set, in shards, going on where an earlier run stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.datasets.corpus import Corpus
from data_prep.local import Local, LocalEncoder
from data_prep.progress import progress_bar
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import write_tokens
from rank_xmodal.errors import UserError
from rank_xmodal.files import held, read_json, telling, write_json
from rank_xmodal.files.tensors import digest_of, read_tensors, read_told, write_tensors

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

    Shards are kept in `.NAME.tokens` beside the set until it is whole; the same call goes on from them.

    Raises
    ------
    UserError
        If the set is not of this corpus and encoder, the disk has no room, an image can't be read, or another process
        is at it.
    """
    assert data.root is not None
    facts = local.image_facts
    known = data.meta.get("tokens")
    if isinstance(known, dict) and all(known.get(key) == value for key, value in facts.items()):
        say(f"{data.root}: already holds these tokens; nothing to do")
        return data
    if len(corpus.images) != len(data.images) or corpus.texts["text"].tolist() != data.texts["text"].tolist():
        raise UserError(f"{data.root}: is not the set of {corpus.name}. Embed that first.")
    texts, cells = data.texts["text"].tolist(), int(np.prod(facts["grid"]))
    words = local.count_words(texts)
    size = 2 * data.dim * (len(data.images) * cells + words)
    say(f"tokens: {len(data.images):,} images x {cells} cells, {words:,} words, {data.dim} wide: {size / 1e6:,.1f} MB")
    root = Path(os.path.realpath(data.root))
    if shutil.disk_usage(root).free < 2 * size:
        raise UserError(
            f"{root}: the tokens take {size / 1e6:,.1f} MB, twice that while they are made; the disk has less."
        )
    place = root.with_name(f".{root.name}.tokens")
    with held(place, "making tokens"):
        settings = {"format": 1, "fingerprint": data.fingerprint, **facts}
        _begin(place, settings, say)
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
        counts = np.concatenate([one["counts"].numpy() for one in _shards(place, "text")])
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        written = write_tokens(
            data,
            (one["parts"].numpy().reshape(-1, cells, data.dim) for one in _shards(place, "image")),
            (one["parts"].numpy() for one in _shards(place, "text")),
            offsets, (len(paths), cells, data.dim), facts,
        )  # fmt: skip
        for path in place.iterdir():
            path.unlink()
    return written


def _begin(place: Path, settings: dict[str, Any], say: Callable[[str], None]) -> None:
    """Throw away the shards of other tokens."""
    marker = place / "settings.json"
    try:
        found = read_json(marker)
    except UserError:
        found = None
    if found == settings:
        return
    if any(place.glob("*.safetensors")):
        say(f"{place}: tokens of other embeddings are thrown away")
    with telling(place):
        for path in place.glob("*.safetensors"):
            path.unlink()
    write_json(marker, settings)


def _shard(
    path: Path, encode: Callable[[slice], Local], part: slice, own: np.ndarray, batch_size: int, where: str
) -> None:
    """Encode a shard, unless it is there and whole."""
    if path.is_file():
        try:
            if read_told(path).get("sha256") == digest_of(read_tensors(path)):
                return
        except UserError:
            pass  # cut short; made again
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
    tensors = {"parts": torch.cat(parts), "counts": torch.tensor(counts)}
    write_tensors(path, tensors, {"sha256": digest_of(tensors)})


def _shards(place: Path, side: str) -> Iterator[dict[str, torch.Tensor]]:
    for path in sorted(place.glob(f"{side}-*.safetensors")):
        yield read_tensors(path)
