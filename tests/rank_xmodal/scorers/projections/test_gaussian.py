"""The Gaussian score against the densities that it is the ratio of."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from rank_xmodal.scorers.projections.gaussian import Gaussian


def test_it_is_the_log_of_the_likelihood_ratio(corpus):
    """Without guards it differs from log p(q, c) / (p(q) p(c)) by what only the query decides."""
    data = corpus.data
    scorer = Gaussian(blend=0.0, ridge=1e-6, cap=0.999, device="cpu").fit(data, "t2i")
    train = [(table["split"] == "train").to_numpy() for table in (data.images, data.texts)]
    image, text = data.image_emb.astype(np.float64), data.text_emb.astype(np.float64)
    pairs = data.relevance[train[1][data.relevance["text"]]]
    owned = np.unique(pairs["image"])
    x, y = image - image[owned].mean(0), text - text[np.unique(pairs["text"])].mean(0)
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    both = np.hstack([x[pairs["image"]], y[pairs["text"]]])
    covariance = both.T @ both / len(both)
    d = data.dim
    joint = multivariate_normal(np.zeros(2 * d), covariance)
    own = multivariate_normal(np.zeros(d), covariance[:d, :d])
    queries, candidates = [0, 5, 700], [1, 8, 300, 399]
    found = scorer.map_queries(data.text_emb[queries]) @ scorer.map_candidates(data.image_emb[candidates]).T
    expected = [[joint.logpdf(np.r_[x[c], y[q]]) - own.logpdf(x[c]) for c in candidates] for q in queries]
    difference = found - np.array(expected)
    np.testing.assert_allclose(difference, difference[:, :1].repeat(len(candidates), 1), atol=0.02)
    assert np.ptp(np.array(expected), axis=1).min() > 1, "there is something to differ in"


def test_the_cap_keeps_the_score_finite_where_sides_are_the_same(corpus):
    emb = np.random.default_rng(0).normal(size=(60, 8))
    data = corpus.embedding_set(emb, emb, [(k, k) for k in range(60)], "train", "train")
    scorer = Gaussian(ridge=0.0, device="cpu").fit(data, "t2i")
    assert scorer.penalty.max() == pytest.approx(0.95 / 2)
    scores = scorer.map_queries(data.text_emb) @ scorer.map_candidates(data.image_emb).T
    assert np.isfinite(scores).all()
    assert (scores.argmax(1) == np.arange(60)).all()


def test_batches_and_tables_give_the_same(corpus):
    scorer = Gaussian(device="cpu").fit(corpus.data, "i2t")
    batch = corpus.random_batch(dim=24)
    query = scorer.map_queries(batch.query.numpy())
    for place in range(3):
        candidates = scorer.map_candidates(batch.candidates[place].numpy())
        torch.testing.assert_close(scorer.score(batch)[place], torch.from_numpy(candidates @ query[place]))
