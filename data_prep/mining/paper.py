"""Protocol paper: as the paper's table must have been made.

Relevant items are not protected, so the positive may stand in a list twice, and its siblings are labelled 0.
"""

from __future__ import annotations

import numpy as np

from data_prep.mining.work import Lists, Work, ordered
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.exact import exact_cosine


def paper(work: Work, queries: np.ndarray) -> Lists:
    """Mine the lists of queries (Q,), see the module."""
    positive, grade = work.positives(queries)
    if work.pool < work.negatives:
        raise UserError(
            f"Cannot mine {work.negatives} negatives per query: the split has only {len(work.gallery)} candidates. "
            "Decrease --negatives."
        )
    rows, cosine = work.ranked(queries, work.negatives)
    similarity = exact_cosine(work.query_emb, work.candidate_emb, queries, positive[:, None])
    labels = np.zeros((len(queries), work.negatives + 1), dtype=np.int8)
    labels[:, -1] = grade
    return *ordered(np.column_stack([rows, positive]), labels, np.column_stack([cosine, similarity])), {}
