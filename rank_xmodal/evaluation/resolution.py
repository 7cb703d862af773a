"""Cross-modal entity resolution: which image and which caption are one, decided pair by pair.

The first stage's lists are the blocking: what they leave out is compared no further, and never called a match. Every
candidate pair has a probability, and a threshold on it, or an assignment that uses no item twice, decides. Choose the
threshold on the pairs of the validation split (`best_threshold`) and apply it to those of another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import maximum_bipartite_matching, min_weight_full_bipartite_matching
from torch import Tensor

from rank_xmodal import metrics
from rank_xmodal.metrics import PairDecisions
from rank_xmodal.retrieval.gallery import RankedGallery

_TRIED = 200  # thresholds of an assignment; each takes a solution
_SURE = 1e-12  # from certainty; nobody is surer
_PREFERRED = 1e-9  # what it adds to be in a pair: one that just reaches the threshold is a match
_SPREADS = (0.01, 10.0)  # of scaled scores within a list; separable lists would have no best one


@dataclass(frozen=True)
class CandidatePairs:
    """The pairs of a split that blocking keeps, in the order of the lists, padding left out.

    Attributes
    ----------
    query, candidate : ndarray (n,), int64
        Rows of the embedding set.
    match : ndarray (n,), bool
        Whether the two belong together.
    true_pairs : int
        Pairs of the split that belong together, those that blocking lost included.
    all_pairs : int
        Queries times candidates of the split.
    """

    query: np.ndarray
    candidate: np.ndarray
    match: np.ndarray
    true_pairs: int
    all_pairs: int

    @classmethod
    def of(cls, gallery: RankedGallery) -> CandidatePairs:
        """Return the pairs of a ranked gallery's lists."""
        lists = gallery.lists
        listed = lists.labels >= 0
        query = np.broadcast_to(lists.query[:, None], listed.shape)[listed]
        return cls(
            query.astype(np.int64),
            lists.candidates[listed].astype(np.int64),
            lists.labels[listed] > 0,
            int(gallery.n_relevant.sum()),
            len(lists) * gallery.size,
        )

    def __len__(self) -> int:
        return len(self.query)


def blocking(pairs: CandidatePairs) -> dict[str, float | int]:
    r"""Say what blocking keeps and what it spares.

    .. math:: \mathrm{PC} = \frac{\text{true candidate pairs}}{\text{true pairs}} \qquad
        \mathrm{RR} = 1 - \frac{\text{candidate pairs}}{\text{all pairs}}

    Returns
    -------
    dict
        candidate_pairs, all_pairs, true_pairs, pairs_completeness (no decision has a higher recall; 0 where nothing
        is true), reduction_ratio.

    References
    ----------
    Christen: Data Matching, Springer 2012, section 7.3. Papadakis et al.: Blocking and Filtering Techniques for Entity
    Resolution, ACM Computing Surveys 53(2), 2020, arXiv 1905.06167.
    """
    return {
        "candidate_pairs": len(pairs),
        "all_pairs": pairs.all_pairs,
        "true_pairs": pairs.true_pairs,
        "pairs_completeness": int(pairs.match.sum()) / max(1, pairs.true_pairs),
        "reduction_ratio": 1 - len(pairs) / max(1, pairs.all_pairs),
    }


def above(pairs: CandidatePairs, probability: np.ndarray, threshold: float) -> np.ndarray:
    """Call every pair of at least this probability (n,) a match, (n,) bool: an item may be in several.

    Raises
    ------
    ValueError
        If the probabilities are not one a pair, or one is not from 0 to 1.
    """
    return _checked(pairs, probability) >= threshold


def assign(pairs: CandidatePairs, probability: np.ndarray, threshold: float) -> np.ndarray:
    r"""Call pairs a match so that no item is in two and the decision as a whole is the most probable.

    .. math:: \max_{x \in \{0, 1\}^n} \sum_{i:\ p_i \ge t} x_i
        \left(\log\frac{p_i}{1 - p_i} - \log\frac{t}{1 - t}\right)
        \quad \text{such that each query and each candidate is in at most one pair with } x_i = 1

    At t = 1/2 these are the pairs with the largest joint probability of all matches and non-matches, each pair taken
    for itself; another threshold moves the odds at which a match is worth calling. Pairs below it stay out, so items
    may stay unmatched; of equal sums one of more pairs is taken.

    Where an image has several true captions, at most one of them is matched. One-to-one then leaves the others out by
    its nature: of five captions an image, recall ends at 1/5 (`one_to_one_recall`), and the threshold alone, `above`,
    is the rule to take.

    Parameters
    ----------
    pairs : CandidatePairs
        n of them, no pair twice.
    probability : ndarray (n,), from 0 to 1
        Beyond 1e-12 and 1 - 1e-12 all are as good as these.
    threshold : float, from 0 to 1

    Returns
    -------
    ndarray (n,), bool

    Raises
    ------
    ValueError
        If the probabilities are not one a pair, or one or the threshold is not from 0 to 1.

    References
    ----------
    Jaro: Advances in Record-Linkage Methodology as Applied to Matching the 1985 Census of Tampa, Florida, Journal of
    the American Statistical Association 84, 1989: one-to-one linkage as an assignment of the highest sum of log odds.
    Solved by scipy after Jonker and Volgenant (Computing 38, 1987), on the candidate pairs alone.
    """
    taken = np.zeros(len(pairs), dtype=bool)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}: pass a probability, from 0 to 1.")
    places = np.flatnonzero(above(pairs, probability, threshold))
    if not len(places):
        return taken
    sides = [np.unique(rows[places], return_inverse=True)[1] for rows in (pairs.query, pairs.candidate)]
    sides.sort(key=lambda side: int(side.max()))  # the fewer are given a partner, the more wait: less work
    row, column = sides
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    # Everyone must be given something: to stay alone is a place of one's own. No worth is 0, which is no entry.
    alone = np.arange(rows)
    gain = _log_odds(probability[places]) - _log_odds(np.array(threshold))
    worth = np.concatenate([1.0 + _PREFERRED + gain, np.ones(rows)])
    at = np.concatenate([row, alone]), np.concatenate([column, columns + alone])
    table = sp.csr_matrix((worth, at), shape=(rows, columns + rows))
    given = min_weight_full_bipartite_matching(table, maximize=True)[1]
    taken[places[given[row] == column]] = True
    return taken


RULES: dict[str, Callable[[CandidatePairs, np.ndarray, float], np.ndarray]] = {"threshold": above, "assignment": assign}
"""What decides, given pairs, their probabilities and a threshold."""


def judge(pairs: CandidatePairs, called: np.ndarray, threshold: float) -> PairDecisions:
    """Say how good a decision is, over all pairs of the split: recall counts true pairs that blocking lost, too.

    Parameters
    ----------
    pairs : CandidatePairs
    called : ndarray (n,), bool
        What is called a match.
    threshold : float
        That it was called by.

    Returns
    -------
    PairDecisions
        Of 0 / 0, precision, recall and F1 are 0. The true negatives are those of the whole split.

    Raises
    ------
    ValueError
        If `called` is not one bool a pair.
    """
    if called.shape != pairs.match.shape or called.dtype != bool:
        raise ValueError(f"called is {called.dtype} {called.shape}: pass one bool for each of {len(pairs)} pairs.")
    found, all_called = int((called & pairs.match).sum()), int(called.sum())
    missed = pairs.true_pairs - found
    return PairDecisions(
        threshold=float(threshold),
        precision=found / max(1, all_called),
        recall=found / max(1, pairs.true_pairs),
        f1=2 * found / max(1, all_called + pairs.true_pairs),
        confusion=((pairs.all_pairs - all_called - missed, all_called - found), (missed, found)),
    )


def best_threshold(pairs: CandidatePairs, probability: np.ndarray, rule: str) -> PairDecisions:
    """Judge a rule of `RULES` at the threshold whose F1 on these pairs is the highest; of several, the highest one.

    The rule "threshold" tries every probability there is. "assignment" tries those of the pairs that an assignment
    without a threshold matches; of more than 200, 200 of them, evenly spaced by rank.

    Raises
    ------
    ValueError
        If there is no pair, or the probabilities are not one a pair or not from 0 to 1.
    """
    known = torch.from_numpy(_checked(pairs, probability))
    if not len(pairs):
        raise ValueError("there is no candidate pair to choose a threshold on; pass at least one.")
    if rule == "threshold":
        # One list with all pairs: to this metric queries are nothing but where their pairs are from.
        labels, true = torch.from_numpy(pairs.match.astype(np.int8)), torch.tensor([pairs.true_pairs])
        best = metrics.best_f1(known[None], labels[None], true).threshold
        return judge(pairs, above(pairs, probability, best), best)
    tried = np.unique(probability[assign(pairs, probability, 0.0)])[::-1]
    if len(tried) > _TRIED:
        tried = tried[np.linspace(0, len(tried) - 1, _TRIED).round().astype(int)]
    decisions = (judge(pairs, assign(pairs, probability, at), at) for at in tried.tolist())
    return max(decisions, key=lambda one: one.f1)  # the first of equals


def one_to_one_recall(relevant: sp.csr_matrix) -> float:
    """Return the highest recall that a one-to-one decision can have: 1 where every item has one true partner.

    Parameters
    ----------
    relevant : csr_matrix (queries, candidates)
        Above 0 where the two belong together; 0 is returned where none do.
    """
    partner = maximum_bipartite_matching(relevant > 0, perm_type="column")
    return int((partner >= 0).sum()) / max(1, (relevant > 0).nnz)


def softmax_scale(scores: Tensor, labels: Tensor) -> float:
    r"""Return the factor by which scores make the best softmax over their lists, by the likelihood of what is relevant.

    .. math:: \arg\max_a \sum_{q} \frac{1}{|R_q|} \sum_{i \in R_q} \log \mathrm{softmax}(a\, s_q)_i

    Cosines differ by hundredths within a list: without it their softmax is flat, and a calibration reads nothing in it.
    The scores of a ranker that was trained with a softmax are near 1. The scaled scores' standard deviation within a
    list stays between 0.01 and 10 on average. 1 where no list holds anything relevant, or no scores differ.

    Parameters
    ----------
    scores : Tensor (Q, L), finite
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.

    References
    ----------
    Guo et al.: On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599 (temperature scaling, 1 / a).
    """
    from scipy.optimize import minimize_scalar

    kept = (labels > 0).any(dim=1)
    padding, scores = labels[kept] < 0, scores[kept].double()
    spread = float(np.ma.masked_array(scores.numpy(), padding.numpy()).std(axis=1).mean()) if kept.any() else 0.0
    if spread == 0:
        return 1.0
    weight = (labels[kept] > 0).double()
    weight /= weight.sum(dim=1, keepdim=True)

    def loss(log_scale: float) -> float:
        log_p = (scores * np.exp(log_scale)).masked_fill(padding, -torch.inf).log_softmax(dim=1)
        return float(-(weight * log_p.masked_fill(padding, 0.0)).sum())

    bounds = np.log(np.array(_SPREADS) / spread)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def _log_odds(probability: np.ndarray) -> np.ndarray:
    kept = np.clip(probability, _SURE, 1 - _SURE)
    return np.log(kept) - np.log1p(-kept)


def _checked(pairs: CandidatePairs, probability: np.ndarray) -> np.ndarray:
    if probability.shape != pairs.match.shape:
        raise ValueError(f"probability is {probability.shape}: pass one for each of the {len(pairs)} pairs.")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probability: one is not from 0 to 1; pass calibrated probabilities.")
    return probability
