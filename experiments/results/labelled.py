"""What `rank-xmodal evaluate` adds for a labelled set: class-level MAP, matched pairs, confusion of classes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.results.evaluate import ranked
from experiments.results.result import Result, row_label, rows_in
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import class_gallery, class_level
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.files import replacing
from rank_xmodal.retrieval.gallery import CLIP, RankedGallery, has_split
from rank_xmodal.scorers.stack import rows_of, score_rows
from rank_xmodal.use.reranker import Reranker

_SHOWN_CLASSES = 12  # a larger confusion matrix is not for a terminal
_LABEL, _WIDTH = 14, 12
_ENOUGH = 0.9  # with fewer of the matches in the lists, the best threshold is often to call all of a list a match


def labels_report(reranker: Reranker, data: EmbeddingSet, result: Result, depth: int | None) -> dict[str, Any]:
    """Return what stands under "labels" in the report of a labelled set.

    Parameters
    ----------
    reranker : Reranker
    data : EmbeddingSet
        With labels.
    result : Result
        Of the evaluated split.
    depth : int
        Of the validation split's lists.

    Returns
    -------
    dict
        fingerprint (of the labels), classes, one_class (has every item just one?), relevant (mean count of a query's
        relevant items in the gallery); each row and ceiling with `class_level.METRICS`; galleries (class MAP of each
        row that makes a space, over the whole of the judged split and of train); pairs; confusion with
        classes and, for each row, a matrix, None where items have several classes or there are very many.
    """
    gallery, scores, rows = result.gallery, result.scores, rows_in(result.report)
    classes, single = class_level.classes_met(data, gallery)
    by_class = class_level.by_class(data, gallery)
    report: dict[str, Any] = {
        "fingerprint": data.labels_fingerprint,
        "classes": len(classes),
        "one_class": single,
        "relevant": float(by_class.n_relevant.double().mean()),
        **{row: class_level.figures(scores[row], by_class) for row in rows},
        "galleries": _galleries(reranker, data, gallery),
        "ceiling": class_level.ceiling(by_class),
        "pairs": _pairs(reranker, data, result, by_class, depth),
        "confusion": None,
    }
    if single and len(classes) <= class_level.LARGEST_CONFUSION:
        matrices = {row: class_level.confusion(data, by_class, scores[row], classes) for row in rows}
        report["confusion"] = {"classes": classes, **matrices}
    return report


def _galleries(reranker: Reranker, data: EmbeddingSet, gallery: RankedGallery) -> dict[str, dict[str, float]]:
    """Return class MAP of each row that makes a space, by the split that is ranked there: the judged one, and train."""
    splits = dict.fromkeys([str(gallery.lists.info["split"]), "train"])
    spaces = {row: stack.scorer.space for row, stack in rows_of(reranker.stack, data).items()}
    table = data.images if gallery.lists.direction == "t2i" else data.texts
    return {
        row: {
            split: float(class_gallery.of_space(data, gallery, space, split).mean())
            for split in splits
            if (table["split"] == split).any()
        }
        for row, space in spaces.items()
        if space is not None
    }


def _pairs(
    reranker: Reranker, data: EmbeddingSet, result: Result, by_class: RankedGallery, depth: int | None
) -> dict[str, Any]:
    """Judge pairs by thresholds from the validation split; where that can't be, say why under "missing"."""
    gallery, scores, rows = result.gallery, result.scores, rows_in(result.report)
    if gallery.lists.info["split"] == "val":
        return {"missing": "thresholds are chosen on val, and flatter there. Use --split test."}
    if not has_split(data, check_direction(gallery.lists.direction), "val"):
        return {"missing": "thresholds are chosen on val, and this set has no val split. Give it one."}
    own = gallery.lists.info["first_stage"] != CLIP
    val = ranked(reranker, data, "val", depth=depth, first_stage="own" if own else "clip")
    # A ranker that was trained again on train and val has val's queries in its bank: none may speak for its own.
    stack = reranker.stack.without(data.queries(check_direction(val.lists.direction))[val.lists.query])
    val_scores = score_rows(rows_of(stack, data), data, val.lists, reranker.device)
    levels = {"class": (by_class, class_level.by_class(data, val)), "item": (gallery, val)}
    return {
        "threshold_from": "val",
        "val_queries": len(val.lists),
        "val_gallery": val.size,
        "trained_on_val": reranker.facts.get("fingerprint") == data.fingerprint
        and "val" in reranker.facts.get("trained_on", ["train"]),
        "ranker_score": "probability" if reranker.calibration else "score",
        **{
            level: {
                **{
                    row: class_level.matched_pairs(
                        _for_pairs(reranker, row, scores[row], judged),
                        judged,
                        (_for_pairs(reranker, row, val_scores[row], chosen), chosen),
                    )
                    for row in rows
                },
                "listed": class_level.listed_matches(judged),
            }
            for level, (judged, chosen) in levels.items()
        },
    }


def _for_pairs(reranker: Reranker, row: str, scores: torch.Tensor, gallery: RankedGallery) -> torch.Tensor:
    if row == RANKER and reranker.calibration is not None:
        return reranker.calibration.probability(scores)
    return class_level.pair_scores(row, scores, gallery)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report of `evaluate`, a labelled set's, for the terminal."""
    found = report["labels"]
    yield ""
    yield (
        f"by class: {found['classes']:,} classes, {'one' if found['one_class'] else 'one or more'} an item; relevant "
        f"is what shares one with the query, {found['relevant']:,.1f} of the gallery's {report['gallery']:,} on average"
    )
    yield f"{'':{_LABEL}}" + "".join(f"{name:>{_WIDTH}}" for name in class_level.METRICS)
    for row in (*rows_in(report), "ceiling"):
        label = row if row == "ceiling" else row_label(row)
        yield f"{label:{_LABEL}}" + "".join(f"{100 * found[row][name]:{_WIDTH}.2f}" for name in class_level.METRICS)
    yield (
        "MAP@k divides by all relevant items of the gallery, MAP likewise over the whole list of "
        f"{report['candidates']}; ceiling: the best order of these lists"
    )
    for row, found_in in found["galleries"].items():
        named = ", ".join(f"{split} {100 * value:.2f}" for split, value in found_in.items())
        yield f"class MAP of {row_label(row)} over the whole gallery of a split, in its own space: {named}"
    if any(row != CLIP and "train" in own and len(own) > 1 for row, own in found["galleries"].items()):
        yield "a head knows the gallery of train by heart: that figure rewards memory, the other says what it found out"
    yield from _pair_lines(found["pairs"], report["gallery"], rows_in(report))
    yield from _confusion_lines(found)


def _pair_lines(pairs: dict[str, Any], gallery: int, rows: list[str]) -> Iterator[str]:
    yield ""
    if "missing" in pairs:
        yield f"matched pairs: {pairs['missing']}"
        return
    where = f"best F1 on val ({pairs['val_queries']:,} queries, gallery {pairs['val_gallery']:,})"
    for level, meaning in (("class", "which share a class"), ("item", "which belong together")):
        found = pairs[level]
        yield f"matched pairs, {meaning}: threshold of the {where}; the lists hold {100 * found['listed']:.2f} %"
        heads = ("threshold", "precision", "recall", "F1", "tp", "fp", "fn", "tn")
        yield f"{'':{_LABEL}}" + "".join(f"{name:>{_WIDTH}}" for name in heads)
        for row in rows:
            one, label = found[row], row_label(row)
            shares = "".join(f"{100 * one[name]:{_WIDTH}.2f}" for name in ("precision", "recall", "f1"))
            counts = "".join(f"{one[name]:{_WIDTH},}" for name in ("tp", "fp", "fn", "tn"))
            yield f"{label:{_LABEL}}{one['threshold']:{_WIDTH}.4g}{shares}{counts}"
    if pairs["class"]["listed"] < _ENOUGH:
        yield (
            f"the lists are too short for classes of this size: --depth {gallery} has every pair judged by its score"
        )
    if pairs["trained_on_val"]:
        yield "the ranker was trained on val, too: its threshold suits queries that it knows, and new ones less"
    if pairs["ranker_score"] == "score" and "clip" in rows:
        yield (
            "the ranker's scores are made for the order within a list; train with --set calibrate=true for "
            "probabilities, and a ranker that has not seen val"
        )


def _confusion_lines(found: dict[str, Any]) -> Iterator[str]:
    yield ""
    confusion = found["confusion"]
    if confusion is None:
        why = "items have several classes" if not found["one_class"] else f"{found['classes']:,} classes are too many"
        yield f"no confusion matrix of classes: {why}"
        return
    classes = confusion["classes"]
    if len(classes) > _SHOWN_CLASSES:
        yield f"the confusion matrix of {len(classes)} classes is too large to show; write it with --confusion FILE"
        return
    names = ["".join(c if c.isprintable() else "?" for c in name) for name in classes]
    width = min(16, max(6, *map(len, names))) + 2
    yield "queries by their class (row) and that of the ranker's first item (column)"
    yield " " * width + "".join(f"{name[: width - 2]:>{width}}" for name in names)
    for name, counts in zip(names, confusion[RANKER], strict=True):
        yield f"{name[: width - 2]:{width}}" + "".join(f"{count:{width},}" for count in counts)


def write_confusion(path: Path, found: dict[str, Any]) -> None:
    """Write the confusion matrices of CLIP, CSLS and the ranker, one below the other, as CSV.

    Columns: ranking, query (its class), then a class of the first item each.

    Raises
    ------
    UserError
        If there is no such matrix, or the file can't be written.
    """
    confusion = found["confusion"]
    if confusion is None:
        why = (
            f"{found['classes']:,} classes are too many, {class_level.LARGEST_CONFUSION} the most"
            if found["one_class"]
            else "items of this set have several classes"
        )
        raise UserError(f"--confusion {path}: {why}. Leave the option out.")
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["ranking", "query", *confusion["classes"]])
        for row in (row for row in confusion if row != "classes"):
            for name, counts in zip(confusion["classes"], confusion[row], strict=True):
                writer.writerow([row, name, *counts])
