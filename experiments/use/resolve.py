"""Resolve a split: which of its images and captions are one, by a run's probabilities."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.results.evaluate import opened, ranked
from experiments.results.result import row_label
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import calibration as calibrating
from rank_xmodal.evaluation import resolution
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.evaluation.resolution import RULES, CandidatePairs
from rank_xmodal.files import replacing
from rank_xmodal.retrieval.gallery import RankedGallery, has_split
from rank_xmodal.scorers.stack import rows_of, score_rows
from rank_xmodal.use.reranker import Reranker

_COLUMNS = ["image_id", "text_id", "probability", "text"]
_WIDTH = 11


@dataclass(frozen=True)
class Resolved:
    """A split resolved.

    Attributes
    ----------
    report : dict
        What `resolve --json` writes.
    matches : DataFrame with image_id, text_id, probability, text
        The run's pairs by the rule `report["written"]`, the most probable first.
    """

    report: dict[str, Any]
    matches: pd.DataFrame


def resolve(
    run: Path, data: EmbeddingSet, split: str = "test", *, device: str = "auto", say: Callable[[str], None] = print
) -> Resolved:
    """Decide which candidate pairs of a split are matches, by CLIP's cosine and by a run, and judge both.

    Where images and texts share no space a random order takes CLIP's place.

    The first stage's lists are the candidate pairs. Thresholds are those of the best F1 on the validation split, one
    for each row and rule. Probabilities are the run's own where it is calibrated; else, and of CLIP, they are fitted on
    the validation split's pairs.

    Parameters
    ----------
    run : Path
        Folder of a trained ranker, of either direction.
    data : EmbeddingSet
        Of the same encoder.
    split : str
    device : str
    say : callable
        Told if the run was trained on what is judged, or on what the thresholds are chosen on.

    Raises
    ------
    UserError
        If the run is not whole or doesn't fit the data, the split is val or has no pairs, there is no validation split
        or too little in it, or a score is not finite.
    """
    return resolve_by(opened(run, data, split, device=device, say=say), data, split, say=say)


def resolve_by(
    reranker: Reranker, data: EmbeddingSet, split: str = "test", *, say: Callable[[str], None] = print
) -> Resolved:
    """As `resolve`, with a ranker that is loaded and fits the data."""
    _check_splits(data, str(reranker.facts["direction"]), split)
    val, judged = ranked(reranker, data, "val"), ranked(reranker, data, split)
    seen = reranker.facts.get("fingerprint") == data.fingerprint and "val" in reranker.facts.get("trained_on", [])
    if seen:
        say(
            "val: the run was trained on it, too: probabilities and thresholds from there are too sure of new pairs. "
            "Train with --set refit=false for a run that has not seen val."
        )
    chosen_on, pairs = CandidatePairs.of(val), CandidatePairs.of(judged)
    found: dict[str, dict[str, Any]] = {}
    called: dict[str, np.ndarray] = {}
    for row, (known, probability) in _probabilities(reranker, data, val, judged).items():
        found[row] = {}
        for rule, decide in RULES.items():
            best = resolution.best_threshold(chosen_on, known, rule)
            called[rule] = decide(pairs, probability, best.threshold)
            one = resolution.judge(pairs, called[rule], best.threshold)
            found[row][rule] = {**asdict(one), "val_f1": best.f1}
    # The run's row comes last. Of equals one-to-one: it leaves nobody with two partners.
    written = max(reversed(RULES), key=lambda rule: found[RANKER][rule]["val_f1"])
    report = {
        "direction": judged.lists.direction,
        "split": split,
        "fingerprint": data.fingerprint,
        "queries": len(judged.lists),
        "candidates": judged.lists.length,
        "gallery": judged.size,
        "blocking": resolution.blocking(pairs),
        "one_to_one_recall": resolution.one_to_one_recall(_relevant(data, judged)),
        "val_queries": len(val.lists),
        "val_gallery": val.size,
        "trained_on_val": seen,
        "calibrated_by": "run" if reranker.calibration else "val",
        "rows": list(found),
        **found,
        "written": written,
    }
    return Resolved(report, _matches(data, judged, pairs, called[written], probability))


def _check_splits(data: EmbeddingSet, direction: str, split: str) -> None:
    way = check_direction(direction)
    if split == "val":
        raise UserError("--split val: thresholds are chosen on val, and flatter there. Use --split test.")
    data.candidate_rows(way, split)  # says what there is instead
    if not has_split(data, way, split):
        raise UserError(
            f"{data.root or data.name}: no image and caption of split {split!r} belong together. Name another split."
        )
    if not has_split(data, way, "val"):
        raise UserError(
            f"{data.root or data.name}: thresholds are chosen on validation pairs, and this set has none. Give some "
            "rows of its captions table the split val, then make the set and the run again."
        )


def _probabilities(
    reranker: Reranker, data: EmbeddingSet, val: RankedGallery, judged: RankedGallery
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each row the probabilities of the candidate pairs of val and of the split, (n,) float64 both."""
    stack, direction = reranker.stack, check_direction(val.lists.direction)
    # A ranker that was trained again on train and val has val's queries in its bank: none may speak for its own.
    unknown = stack.without(data.queries(direction)[val.lists.query])
    scores = []
    for own, gallery in ((unknown, val), (stack, judged)):
        known = rows_of(own, data)
        rows = {row: known[row] for row in (next(iter(known)), RANKER)}  # the reference and the run
        scores.append(score_rows(rows, data, gallery.lists, reranker.device))
    if not all(bool(value.isfinite().all()) for by_row in scores for value in by_row.values()):
        raise UserError(
            "resolve: the run gives some pairs scores that are not finite, which decide nothing. Train again."
        )
    listed = [torch.from_numpy(gallery.lists.labels >= 0) for gallery in (val, judged)]
    found = {}
    for row in scores[0]:
        own_one = reranker.calibration if row == RANKER else None
        scale, fitted = (1.0, own_one) if own_one else _fitted(data, scores[0][row], val)
        both = [
            fitted.probability(scale * by_row[row], mask)[mask] for by_row, mask in zip(scores, listed, strict=True)
        ]
        found[row] = (both[0].numpy(), both[1].numpy())
    return found


def _fitted(data: EmbeddingSet, scores: torch.Tensor, val: RankedGallery) -> tuple[float, Calibration]:
    """Return the factor that scores take, and the calibration of what comes out, from validation's lists."""
    labels = torch.from_numpy(val.lists.labels)
    scale = resolution.softmax_scale(scores, labels)
    try:
        return scale, calibrating.fit(scale * scores, labels)
    except UserError as error:
        raise UserError(
            f"{data.root or data.name}: split val has {int((labels > 0).sum())} true and {int((labels == 0).sum())} "
            "other candidate pairs, too few for probabilities (20 of each). Give it more images and captions."
        ) from error


def _relevant(data: EmbeddingSet, gallery: RankedGallery) -> Any:
    """Return which queries and candidates of the split belong together, a sparse matrix."""
    direction = check_direction(gallery.lists.direction)
    members = data.candidate_rows(direction, str(gallery.lists.info["split"]))
    return data.relevance_matrix(direction)[gallery.lists.query][:, members].tocsr()


def _matches(
    data: EmbeddingSet, gallery: RankedGallery, pairs: CandidatePairs, called: np.ndarray, probability: np.ndarray
) -> pd.DataFrame:
    asks, found = pairs.query[called], pairs.candidate[called]
    image, text = (found, asks) if gallery.lists.direction == "t2i" else (asks, found)
    order = np.lexsort((text, image, -probability[called]))
    captions = data.texts.iloc[text[order]]
    columns = [data.images["image_id"].iloc[image[order]], captions["text_id"], probability[called][order]]
    return pd.DataFrame(dict(zip(_COLUMNS, [*map(np.asarray, columns), captions["text"].to_numpy()], strict=True)))


def write_matches(path: Path, matches: pd.DataFrame) -> None:
    """Write matched pairs as CSV, whole or not at all: a header, then a line a pair.

    Raises
    ------
    UserError
        If the file can't be written.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(_COLUMNS)
        for image, text_id, probability, text in matches[_COLUMNS].itertuples(index=False):
            writer.writerow([image, text_id, f"{probability:.6f}", text])


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield a report for the terminal."""
    kept = report["blocking"]
    yield (
        f"{report['direction']} {report['split']}: {report['queries']:,} queries, gallery {report['gallery']:,}, "
        f"{kept['true_pairs']:,} true pairs"
    )
    yield (
        f"blocking, the top {report['candidates']}: {kept['candidate_pairs']:,} of {kept['all_pairs']:,} pairs; pairs "
        f"completeness {100 * kept['pairs_completeness']:.2f} %, reduction ratio {100 * kept['reduction_ratio']:.2f} %"
    )
    wide = 2 + max(len(f"{row_label(row)}, {rule}") for row in report["rows"] for rule in RULES)
    heads = ("threshold", "precision", "recall", "F1", "tp", "fp", "fn", "tn")
    yield " " * wide + "".join(f"{name:>{_WIDTH}}" for name in heads)
    for row in report["rows"]:
        for rule in RULES:
            one = report[row][rule]
            (tn, fp), (fn, tp) = one["confusion"]
            shares = "".join(f"{100 * one[name]:{_WIDTH}.2f}" for name in ("precision", "recall", "f1"))
            counts = "".join(f"{count:{_WIDTH},}" for count in (tp, fp, fn, tn))
            yield f"{f'{row_label(row)}, {rule}':{wide}}{one['threshold']:{_WIDTH}.4f}{shares}{counts}"
    yield f"thresholds: of the best F1 on val ({report['val_queries']:,} queries, gallery {report['val_gallery']:,})"
    if report["one_to_one_recall"] < 1:
        yield (
            f"items have several partners: a one-to-one assignment has a recall of "
            f"{100 * report['one_to_one_recall']:.2f} % at most"
        )
