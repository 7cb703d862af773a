"""What a run's evaluation gives: every row's scores of the same lists, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.evaluation import class_gallery
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.evaluation.judging import RANKER, SHOWN, judge
from rank_xmodal.retrieval.gallery import CLIP, RankedGallery
from rank_xmodal.retrieval.query_bank import query_groups
from rank_xmodal.retrieval.retriever import Unmapped
from rank_xmodal.scorers import Stack, class_of
from rank_xmodal.scorers.chance import Chance
from rank_xmodal.scorers.stack import COMPARED, rows_of, score_rows

GROUP = "group"
"""The column of test.parquet that says which queries belong together."""


def row_label(row: str) -> str:
    """Return what people read for a row of a report: "CLIP" for clip, "CSLS on VSE++" for csls_on_vsepp."""
    return row if row == RANKER else " on ".join(class_of(name).label for name in row.split("_on_"))


def rows_in(report: Mapping[str, Any]) -> list[str]:
    """Return the rows of a report, the run's own last; one of an earlier version doesn't name them."""
    return list(report.get("rows", [*(scorer.name for scorer in COMPARED), RANKER]))


def metrics_in(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the metrics of a report's rows, in order: those of every table, and of a labelled set "class MAP"."""
    return (*SHOWN, CLASS_MAP) if CLASS_MAP in report[RANKER] else SHOWN


def reference(report: Mapping[str, Any]) -> str:
    """Return the row that a run is held against: CLIP, or a random order where images and texts share no space."""
    return rows_in(report)[0]


@dataclass(frozen=True)
class Result:
    """A ranker judged on a split, beside what it is compared with.

    Attributes
    ----------
    gallery : RankedGallery
    scores : dict of str to Tensor (Q, L)
        By row.
    report : dict
        As `judging.judge` returns it, and of a labelled set labels_fingerprint and each row's "class MAP", of the whole
        gallery: what test.json holds.
    values : dict of str to dict of str to Tensor (Q,)
        By row and metric.
    group : ndarray (Q,), int64, or None
        Which queries are no independent witnesses: the captions of an image; None where nobody knows.
    """

    gallery: RankedGallery
    scores: dict[str, torch.Tensor]
    report: dict[str, Any]
    values: dict[str, dict[str, torch.Tensor]]
    group: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        stack: Stack,
        data: EmbeddingSet,
        gallery: RankedGallery,
        device: torch.device,
        calibration: Calibration | None = None,
        scores: dict[str, torch.Tensor] | None = None,
    ) -> Result:
        """Score the gallery's lists by the stack and by what it is compared with, unless that was done; judge all."""
        rows = rows_of(stack, data)
        scores = score_rows(rows, data, gallery.lists, device) if scores is None else scores
        report, values = judge(scores, gallery, calibration)
        if data.labelled and gallery.lists.info["protocol"] == "gallery":
            report["labels_fingerprint"] = data.labels_fingerprint
            for row, found in _by_class(rows, stack, data, gallery, scores).items():
                values[row][CLASS_MAP] = found
                report[row][CLASS_MAP] = float(found.mean())
        group = query_groups(data, check_direction(gallery.lists.direction))[gallery.lists.query]
        return cls(gallery, scores, report, values, group)

    def table(self) -> pd.DataFrame:
        """Return a line for each query: query, its group, and a column for each row and metric, "ranker/R@1"."""
        columns = {
            f"{row}/{name}": v.numpy() for row, by_metric in self.values.items() for name, v in by_metric.items()
        }
        known = {} if self.group is None else {GROUP: self.group}
        return pd.DataFrame({"query": self.gallery.lists.query, **known, **columns})


def _by_class(
    rows: Mapping[str, Stack], stack: Stack, data: EmbeddingSet, gallery: RankedGallery, scores: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return each row's average precision by class over the whole gallery, (Q,).

    What makes a space ranks all of it there, and so does a random order; what else puts lists in order has the first
    stage's order behind them.
    """
    clip = gallery.lists.info.get("first_stage", CLIP) == CLIP
    first = Unmapped() if clip else stack.own_space
    assert first is not None, "lists of its own come from its own space"
    asked, found = torch.from_numpy(gallery.lists.query.astype(np.int64)), {}
    for row, one in rows.items():
        scorer, space = one.scorer, one.scorer.space
        if isinstance(scorer, Chance):
            found[row] = class_gallery.of_scores(data, gallery, partial(_drawn, scorer, asked))
        elif space is not None and not isinstance(space, Unmapped):
            found[row] = class_gallery.of_space(data, gallery, space)
    listed = {row: own for row, own in scores.items() if row not in found}
    return {**found, **(class_gallery.of_lists(data, gallery, listed, first) if listed else {})}


def _drawn(chance: Chance, queries: torch.Tensor, part: slice, members: np.ndarray) -> torch.Tensor:
    return chance.numbers(queries[part], torch.from_numpy(members))
