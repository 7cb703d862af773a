"""Search an embedding set with a trained ranker by a caption or an image of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.query_bank import own_queries
from rank_xmodal.use.reranker import FirstStage, Reranker


def search(
    run: Path,
    data: EmbeddingSet,
    *,
    text: str | None = None,
    image: Path | None = None,
    k: int = 10,
    split: str | None = None,
    first_stage: FirstStage = "clip",
    pretrained: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Return the k best candidates, best first: rank, id, what it is (path or caption), score and cosine.

    Raises
    ------
    UserError
        If not exactly one of text and image is given, the ranker ranks in the other direction, or the encoder that
        made the embeddings can't be loaded.
    """
    from data_prep.encoder import load_encoder
    from data_prep.weights import add_config

    if (text is None) == (image is None):
        raise UserError("search: give either --text or --image.")
    if text is not None and not text.strip():
        raise UserError("--text is empty: say what to look for.")
    reranker = Reranker.from_pretrained(run, device)
    direction = reranker.facts["direction"]
    if direction != ("t2i" if text is not None else "i2t"):
        asks = "texts" if direction == "t2i" else "images"
        raise UserError(
            f"{run}: was trained for {direction}, it is asked with {asks}. Name a run of the other direction."
        )
    reranker.check_made_for(data, str(run))
    if first_stage == "own" and reranker.stack.own_space is None:
        raise UserError(f"--first-stage own: {run} has no space of its own to search in. Use --first-stage clip.")
    name = data.meta.get("encoder")
    if not name:
        raise UserError(f"{data.root}: was imported and doesn't say which encoder made it; only its own rows can ask.")
    weights = pretrained or data.meta.get("weights_file") or data.meta.get("pretrained")
    if data.meta.get("model_config"):
        add_config(name, json.loads(data.meta["model_config"]), str(data.root))
    encoder = load_encoder(name, weights, None if device == "auto" else device, say=say)
    if data.meta.get("weights_sha256") not in (None, encoder.sha256):
        raise UserError(
            f"{data.root}: was embedded with other weights than {encoder.pretrained}. Name them by --pretrained."
        )
    query = encoder.encode_texts([text]) if text is not None else encoder.encode_images([image])
    side, column = (data.images, "path") if direction == "t2i" else (data.texts, "text")
    rows = np.arange(len(side)) if split is None else data.candidate_rows(direction, split)
    own = own_queries(data, direction, rows, reranker.stack.bank) if reranker.stack.scorer.needs.neighbours else None
    embeddings = np.asarray(data.candidates(direction)[rows])
    index = reranker.index(embeddings, ids=rows, first_stage=first_stage, own=own)
    hits = index.search(query, k=min(k, len(rows)))
    ids = side["image_id" if direction == "t2i" else "text_id"]
    return [
        {
            "rank": place + 1,
            "id": ids.iloc[row],
            column: side[column].iloc[row],
            "score": float(hits.scores[0, place]),
            "cosine": float(hits.cosine[0, place]),
            "probability": None if hits.probability is None else float(hits.probability[0, place]),
        }
        for place, row in enumerate(hits.ids[0])
    ]
