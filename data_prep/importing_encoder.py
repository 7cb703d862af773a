"""Does an encoder that the user names make the embeddings that are imported?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import Part
from data_prep.encoder import Encoder
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.errors import UserError

_CHECKED = 8  # items of a side that are encoded again
_TRIED = 64  # images among which these are looked for: files may be elsewhere
_LEAST = 0.98  # cosine; another precision or another decoder of JPEG is off by less


def facts_of(encoder: Encoder | None) -> dict[str, Any]:
    """Return what meta.json says of the encoder. In which precision it made the arrays, nobody knows."""
    if encoder is None:
        return {"encoder": None, "pretrained": None, "weights_sha256": None}
    identity = {key: value for key, value in encoder.identity.items() if key != "precision"}
    return {**identity, **({"weights_file": encoder.weights_file} if encoder.weights_file else {})}


def check_width(encoder: Encoder | None, part: Part) -> None:
    """Check that an array is as wide as the encoder's embeddings.

    Raises
    ------
    UserError
        If it is not.
    """
    path, array = part
    if encoder is not None and array.shape[1] != encoder.dim:
        raise UserError(
            f"{path}: is {array.shape[1]} wide, and embeddings of --model {encoder.name} are {encoder.dim} wide. Name "
            "the model that made the arrays."
        )


def check_encoder(
    encoder: Encoder | None, made: EmbeddingSet, lost: np.ndarray, out: Path, say: Callable[[str], None]
) -> None:
    """Encode up to eight images, where their files are there, and eight captions again, and compare.

    Parameters
    ----------
    encoder : Encoder or None
        None: there is nothing to check.
    made : EmbeddingSet
    lost : ndarray (n_texts,), bool
        Captions whose words are not known.
    out : Path
        The folder that the set will have, where paths that aren't absolute begin.

    Raises
    ------
    UserError
        If it gives another embedding.
    """
    if encoder is None:
        return
    # Without "..": the folder that these lead out of is not there yet.
    files = [file and os.path.normpath(file) for file in image_files(replace(made, root=Path(os.path.realpath(out))))]
    tried = _spread(np.arange(len(files)), _TRIED)
    rows = _spread(np.array([row for row in tried if files[row] and os.path.isfile(files[row])], dtype=int), _CHECKED)
    lowest, checked = 1.0, {"images": 0, "captions": 0}
    for row in rows.tolist():
        try:
            found = encoder.encode_images([files[row]])[0]
        except UserError:  # a broken file says nothing of the encoder
            continue
        lowest = min(lowest, _compared(encoder, found, made.image_emb[row], f"image row {row} ({files[row]})"))
        checked["images"] += 1
    texts = made.texts["text"]
    for row in _spread(np.flatnonzero(~lost), _CHECKED).tolist():
        found = encoder.encode_texts([texts.iloc[row]])[0]
        lowest = min(lowest, _compared(encoder, found, made.text_emb[row], f"caption row {row} ({texts.iloc[row]!r})"))
        checked["captions"] += 1
    if any(checked.values()):
        say(
            f"{encoder.name}, {encoder.pretrained}: {checked['images']} images and {checked['captions']} captions "
            f"encoded again are as in the arrays (cosine {lowest:.3f} and above)"
        )
    else:
        say(f"{encoder.name}, {encoder.pretrained}: taken on your word, for no image file and no caption is there")


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, from the first to the last."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))] if len(rows) else rows


def _compared(encoder: Encoder, found: np.ndarray, stored: np.ndarray, what: str) -> float:
    cosine = float(found.astype(np.float32) @ stored.astype(np.float32))
    if cosine < _LEAST:
        raise UserError(
            f"{what}: encoded by --model {encoder.name} --pretrained {encoder.pretrained} it has the cosine "
            f"{cosine:.3f} with its embedding in the arrays, where their own encoder has {_LEAST} at least. Name the "
            "encoder that made them (did it put captions into a sentence, or crop images otherwise?), or leave out "
            "both options."
        )
    return cosine
