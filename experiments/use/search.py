"""Search an embedding set with a trained ranker by a caption or an image of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.retrieval.gallery import DEPTH
from rank_xmodal.retrieval.query_bank import own_queries
from rank_xmodal.scorers import Scorer
from rank_xmodal.use.cascade import Cascade, check_last
from rank_xmodal.use.given import differing
from rank_xmodal.use.index import Index
from rank_xmodal.use.reranker import FirstStage, Reranker

if TYPE_CHECKING:
    from data_prep.encoder import Encoder


def search(
    run: Path,
    data: EmbeddingSet,
    *,
    text: str | None = None,
    image: Path | None = None,
    k: int = 10,
    split: str | None = None,
    first_stage: FirstStage = "clip",
    depth: int | None = None,
    then: str | None = None,
    then_set: Sequence[str] = (),
    pretrained: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Return the k best candidates, best first: rank, id, what it is (path or caption), score and cosine.

    `depth` candidates of the first stage are scored by the ranker: 50 by default, or 1,000 where a scorer `then`, with
    settings of its own, puts the ranker's first few in order again; see `rank_xmodal.use.cascade`.

    Raises
    ------
    UserError
        If not exactly one of text and image is given, the ranker ranks in the other direction, the encoder that made
        the embeddings can't be loaded, the ranker reads tokens and the set's are not those it was trained on or can't
        be made for the query, or `then` can't come last.
    """
    if (text is None) == (image is None):
        raise UserError("search: give either --text or --image.")
    if text is not None and not text.strip():
        raise UserError("--text is empty: say what to look for.")
    reranker = Reranker.from_pretrained(run, device)
    direction: Direction = reranker.facts["direction"]
    if direction != ("t2i" if text is not None else "i2t"):
        asks = "texts" if direction == "t2i" else "images"
        raise UserError(
            f"{run}: was trained for {direction}, it is asked with {asks}. Name a run of the other direction."
        )
    reranker.check_made_for(data, str(run))
    last = _last(data, then, then_set)
    if first_stage == "own" and reranker.stack.own_space is None:
        raise UserError(f"--first-stage own: {run} has no space of its own to search in. Use --first-stage clip.")
    encoder = _encoder(data, pretrained, device, say)
    query = encoder.encode_texts([text]) if text is not None else encoder.encode_images([image])
    needs = reranker.stack.scorer.needs
    words = _tokens(encoder, data, text, image) if needs.tokens else None
    rows = np.arange(len(data.candidates(direction))) if split is None else data.candidate_rows(direction, split)
    content = None
    if needs.content or last is not None:
        whole = Content.of(data, direction).candidates
        content = Content(direction, [], [whole[row] for row in rows.tolist()])
    index = _index(reranker, data, direction, rows, first_stage, content)
    asked, k = [text if text is not None else str(image)], min(k, len(rows))
    if last is None or content is None:
        hits = index.search(query, k, depth=depth or DEPTH, tokens=words, content=asked if needs.content else None)
    else:
        cascade = Cascade(index, last, content)
        hits = cascade.search(query, asked, k, tokens=words, **({} if depth is None else {"depth": depth}))
    side, column = (data.images, "path") if direction == "t2i" else (data.texts, "text")
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


def _encoder(data: EmbeddingSet, pretrained: str | None, device: str, say: Callable[[str], None]) -> Encoder:
    """Load the encoder that made a set."""
    from data_prep.encoder import load_encoder
    from data_prep.weights import add_config

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
    return encoder


def _tokens(encoder: Encoder, data: EmbeddingSet, text: str | None, image: Path | None) -> TokenTable:
    """Return the words of a caption or the cells of an image, made as those of the set were."""
    from data_prep.local import LocalEncoder

    facts = data.whole.meta["tokens"]
    if facts.get("tower") in (None, "import"):
        raise UserError(
            f"{data.root}: its words and cells were imported, and nobody knows how to make those of a query; only its "
            "own rows can ask. Make them with `rank-xmodal embed ... --tokens features`, and train on them."
        )
    local = LocalEncoder(encoder, facts.get("path") or "values")  # a tower with one projected way names none
    made = {**local.image_facts, "normalised": local.normalised, "image_width": local.image_width}
    if found := differing(facts, {**made, "text_width": local.text_width}):
        raise UserError(
            f"{data.root}: its words and cells are not those that its encoder makes now ({found}). Make them again "
            "with `rank-xmodal embed ... --tokens`."
        )
    if text is not None:
        words = local.texts([text]).parts[0].half().cpu().numpy()
        return TokenTable.of_texts(words, np.array([0, len(words)]))
    cells = local.images(torch.stack([encoder.load_image(image)]), [str(image)]).parts[0]
    return TokenTable.of_images(cells.half().cpu().numpy()[None])


def _last(data: EmbeddingSet, name: str | None, assignments: Sequence[str]) -> Scorer | None:
    """Return the scorer of the last stage."""
    if name is None:
        if assignments:
            raise UserError(f"--then-set {assignments[0]}: is a setting of a last stage. Name that by --then.")
        return None
    try:
        settings = scorers.read(None, list(assignments), {"scorer": name})
        last = scorers.class_of(settings.scorer)(settings)
        check_last(last)
    except UserError as error:
        raise UserError(f"--then {name}: {error}") from error
    last.needs.check(last.name, data)
    return last


def _index(
    reranker: Reranker,
    data: EmbeddingSet,
    direction: Direction,
    rows: np.ndarray,
    first_stage: FirstStage,
    content: Content | None,
) -> Index:
    """Return an index of some of a set's candidates, which are called by their rows."""
    needs, tokens = reranker.stack.scorer.needs, None
    own = own_queries(data, direction, rows, reranker.stack.bank) if needs.neighbours else None
    if needs.tokens:
        tokens = tables_of(data)[0 if direction == "t2i" else 1]
        tokens = tokens if len(rows) == len(tokens) else tokens.select(torch.from_numpy(rows))
    embeddings = np.asarray(data.candidates(direction)[rows])
    look = content.candidates if content is not None and needs.content else None
    return reranker.index(embeddings, ids=rows, first_stage=first_stage, own=own, tokens=tokens, content=look)
