"""What a run's evaluation gives: every row's scores of the same lists, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.evaluation.judging import RANKER, judge
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.retrieval.query_bank import query_groups
from rank_xmodal.scorers import Stack, class_of
from rank_xmodal.scorers.stack import COMPARED, rows_of, score_rows

GROUP = "group"
"""The column of test.parquet that says which queries belong together."""


def row_label(row: str) -> str:
    """Return what people read for a row of a report: "CLIP" for clip, "CSLS on VSE++" for csls_on_vsepp."""
    return row if row == RANKER else " on ".join(class_of(name).label for name in row.split("_on_"))


def rows_in(report: Mapping[str, Any]) -> list[str]:
    """Return the rows of a report, the run's own last; one of an earlier version doesn't name them."""
    return list(report.get("rows", [*(scorer.name for scorer in COMPARED), RANKER]))


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
        As `judging.judge` returns it: what test.json holds.
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
    ) -> Result:
        """Score the gallery's lists by the stack and by what it is compared with, and judge all."""
        scores = score_rows(rows_of(stack, data), data, gallery.lists, device)
        group = query_groups(data, check_direction(gallery.lists.direction))[gallery.lists.query]
        return cls(gallery, scores, *judge(scores, gallery, calibration), group)

    def table(self) -> pd.DataFrame:
        """Return a line for each query: query, its group, and a column for each row and metric, "ranker/R@1"."""
        columns = {
            f"{row}/{name}": v.numpy() for row, by_metric in self.values.items() for name, v in by_metric.items()
        }
        known = {} if self.group is None else {GROUP: self.group}
        return pd.DataFrame({"query": self.gallery.lists.query, **known, **columns})
