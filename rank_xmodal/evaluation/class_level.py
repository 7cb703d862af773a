"""Class-level figures of a labelled set: what shares a class with the query is relevant, its own counterpart or not.

Three views of the same lists: rankings (MAP and its kin), pairs (which of them does a threshold call a match?) and
classes (which class does the first item have?).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from rank_xmodal import metrics
from rank_xmodal.data.checks import LABELS, classes_of
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.retrieval.query_bank import NEIGHBOURS

METRICS = ("hit_rate@1", "hit_rate@10", "recall@10", "MAP@5", "MAP@10", "MAP@50", "MAP")
LARGEST_CONFUSION = 200  # classes; a matrix of more is read by nobody
_BLOCK = 256  # queries whose classes are compared at a time


def by_class(data: EmbeddingSet, gallery: RankedGallery) -> RankedGallery:
    """Return the same queries and lists with labels 1 where a candidate shares a class with its query, else 0.

    `n_relevant` counts those that share one in the split's whole gallery. `rank_below` is infinite: nobody looked.

    Raises
    ------
    UserError
        If the set has no labels.
    """
    shared = SharedClasses.of(data, gallery)
    members = data.candidate_rows(check_direction(gallery.lists.direction), str(gallery.lists.info["split"]))
    listed = shared.candidate[gallery.lists.candidates]
    in_gallery = np.bincount(shared.candidate[members], minlength=shared.has.shape[0])
    labels = np.empty(listed.shape, dtype=np.int8)
    count = np.empty(len(gallery.lists), dtype=np.int64)
    for start in range(0, len(count), _BLOCK):
        part = slice(start, start + _BLOCK)
        found = shared.block(part)
        labels[part] = np.take_along_axis(found, listed[part], axis=1)
        count[part] = found @ in_gallery
    lists = replace(gallery.lists, labels=labels, info={**gallery.lists.info, "relevance": "class"})
    return RankedGallery(lists, torch.from_numpy(count), torch.full((len(count),), torch.inf).double(), gallery.size)


@dataclass(frozen=True)
class SharedClasses:
    """Which candidates share a class with a query; few different label sets are compared, the rest is looked up.

    Attributes
    ----------
    has : sparse matrix (N, classes), int32
        Of every different label set, which classes it holds.
    query : ndarray (Q,)
        Which label set each query of the lists has.
    candidate : ndarray (n,)
        Which one each candidate of the set has.
    """

    has: sp.csr_matrix
    query: np.ndarray
    candidate: np.ndarray

    @classmethod
    def of(cls, data: EmbeddingSet, gallery: RankedGallery) -> SharedClasses:
        """Gather those of a gallery's queries and all candidates; a UserError if the set has no classes."""
        from sklearn.preprocessing import MultiLabelBinarizer

        asked, offered = _labels(data, gallery)
        names, codes = np.unique(np.concatenate([asked[gallery.lists.query], offered]), return_inverse=True)
        has = MultiLabelBinarizer(sparse_output=True).fit_transform([classes_of(name) for name in names])
        count = len(gallery.lists)
        return cls(has.astype(np.int32).tocsr(), codes[:count], codes[count:])

    def block(self, part: slice) -> np.ndarray:
        """Return whether some queries share a class with each label set, (B, N) bool; index it by `candidate`."""
        shared: np.ndarray = (self.has[self.query[part]] @ self.has.T).toarray() > 0
        return shared


def _labels(data: EmbeddingSet, gallery: RankedGallery) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of all that may ask and of all that may be ranked, as strings."""
    if not data.labelled:
        raise UserError(
            f"{data.root or data.name}: has no classes. Give the captions table a column 'labels' and make the set "
            "again; what was trained on it stays good."
        )
    sides = data.texts, data.images
    asked, offered = sides if gallery.lists.direction == "t2i" else sides[::-1]
    return asked[LABELS].to_numpy(dtype=str), offered[LABELS].to_numpy(dtype=str)


def figures(scores: Tensor, gallery: RankedGallery) -> dict[str, float]:
    r"""Return the mean over queries of each of `METRICS`, shares from 0 to 1.

    .. math:: \mathrm{AP@}k = \frac{1}{R} \sum_{r \le k,\ y_r > 0} \mathrm{precision@}r

    R is the number of relevant items in the whole gallery, as trec_eval has it, and MAP the same over the whole list.
    So what the list doesn't hold costs, and with R above k no order reaches 1: `ceiling` says what the best one
    reaches. Papers that divide by the relevant items among the top k instead print higher figures; the two can't be
    compared. hit_rate@k is the share of queries with at least one relevant item in the top k, recall@k the share of R
    found there. Tied non-relevant items count as ranked above.

    Parameters
    ----------
    scores
        (Q, L).
    gallery
        As `by_class` returns it.

    Raises
    ------
    ValueError
        a NaN among the scores.
    """
    labels = torch.from_numpy(gallery.lists.labels)
    named = {name: f"MAP@{gallery.lists.length}" if name == "MAP" else name for name in METRICS}
    return {
        name: float(metrics.compute(at, scores, labels, n_relevant=gallery.n_relevant).mean())
        for name, at in named.items()
    }


def ceiling(gallery: RankedGallery) -> dict[str, float]:
    """Return `figures` of the best order of every list: no reordering exceeds them."""
    return figures(torch.from_numpy(gallery.lists.labels).float(), gallery)


def pair_scores(row: str, scores: Tensor, gallery: RankedGallery) -> Tensor:
    """Make CLIP's, CSLS's or a ranker's scores (Q, L) fit for one threshold over all queries, as far as they can be.

    CSLS gets the term that `csls` leaves out for being the same within a list: less the query's mean cosine to its 10
    nearest candidates (Conneau et al. 2018, arXiv 1710.04087, equation 3). Others stay as they are.
    """
    if row != "csls":
        return scores
    nearest = -np.sort(-gallery.lists.cosine, axis=1)[:, :NEIGHBOURS]
    return scores - torch.from_numpy(nearest.mean(axis=1, keepdims=True))


def matched_pairs(
    scores: Tensor, gallery: RankedGallery, chosen_on: tuple[Tensor, RankedGallery]
) -> dict[str, float | int]:
    """Judge the pairs of a query and a candidate that reach a threshold; it is the one of the highest F1 elsewhere.

    All pairs of the split's queries with its whole gallery count. One outside the lists is never called a match: a
    false negative if it is one, else a true negative.

    Parameters
    ----------
    scores
        (Q, L), to be judged.
    gallery
        Where they belong; label above 0 is a match.
    chosen_on
        Scores and lists of the validation split, which the threshold is chosen on.

    Returns
    -------
    threshold, precision, recall, f1 and the counts tp, fp, fn, tn.
    """
    val_scores, val = chosen_on
    chosen = metrics.best_f1(val_scores, torch.from_numpy(val.lists.labels), val.n_relevant)
    found = metrics.at_threshold(scores, torch.from_numpy(gallery.lists.labels), chosen.threshold, gallery.n_relevant)
    (_, fp), (fn, tp) = found.confusion
    return {
        "threshold": found.threshold,
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": len(gallery.lists) * gallery.size - tp - fp - fn,
    }


def listed_matches(gallery: RankedGallery) -> float:
    """Return the share of matching pairs that the lists hold: no threshold has a higher recall."""
    return float((gallery.lists.labels > 0).sum() / max(1, int(gallery.n_relevant.sum())))


def classes_met(data: EmbeddingSet, gallery: RankedGallery) -> tuple[list[str], bool]:
    """Return the classes of the queries and the gallery, sorted, and whether every item has just one."""
    asked, offered = _labels(data, gallery)
    members = data.candidate_rows(check_direction(gallery.lists.direction), str(gallery.lists.info["split"]))
    values = {*asked[gallery.lists.query].tolist(), *offered[members].tolist()}
    return sorted({name for value in values for name in classes_of(value)}), all("|" not in value for value in values)


def confusion(data: EmbeddingSet, gallery: RankedGallery, scores: Tensor, classes: list[str]) -> list[list[int]]:
    """Count queries by their class (rows) and the class of their first item (columns), in the order of `classes`.

    Among items tied for the first place one of another class counts, where there is one. So the share on the diagonal
    is hit_rate@1.

    Parameters
    ----------
    data
        A set with one class an item.
    gallery
        As `by_class` returns it.
    scores
        (Q, L).
    classes
        As `classes_met` returns them.
    """
    from sklearn.metrics import confusion_matrix

    asked, offered = _labels(data, gallery)
    tied = (scores == scores.max(dim=1, keepdim=True).values).numpy()
    wrong = tied & (gallery.lists.labels == 0)
    first = np.where(wrong.any(axis=1), wrong.argmax(axis=1), tied.argmax(axis=1))
    top = gallery.lists.candidates[np.arange(len(first)), first]
    counts: Any = confusion_matrix(asked[gallery.lists.query], offered[top], labels=classes)
    return counts.tolist()
