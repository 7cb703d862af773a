"""The convex map: its objective against plain loops, its gradient, and that it finds the minimum."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from rank_xmodal.scorers.projections import convex
from rank_xmodal.scorers.projections.convex import Convex
from rank_xmodal.scorers.projections.pairs import TrainingPairs


def small(corpus, captions=2, images=12, d=5):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(images, d))
    owner = np.repeat(np.arange(images), captions)
    text = image[owner] + rng.normal(size=(len(owner), d))
    pairs = [*zip(owner, range(len(owner)), strict=True), (1, 0)]  # the first caption belongs to two images
    return corpus.embedding_set(image, text, pairs, "train", "train")


def plain(pairs, core, mu, problem):
    """The mean over pairs of both cross-entropies, siblings out of the denominators, in plain loops."""
    images, texts = pairs.images.double().numpy(), pairs.texts.double().numpy()
    into, out = problem.into.double().numpy(), problem.out.double().numpy()
    owned = set(zip(pairs.image.tolist(), pairs.text.tolist(), strict=True))

    def hub(row, bank, mine):
        cosines = sorted((float(row @ other) for j, other in enumerate(bank) if j not in mine), reverse=True)[:10]
        return sum(cosines) / len(cosines)

    hub_image = [hub(x, texts, {t for i, t in owned if i == n}) for n, x in enumerate(images)]
    hub_text = [hub(y, images, {i for i, t in owned if t == n}) for n, y in enumerate(texts)]

    def logit(i, t):
        score = images[i] @ texts[t] + (images[i] @ into) @ core @ (out.T @ texts[t])
        return convex.SCALE * (score - hub_image[i] / 2 - hub_text[t] / 2)

    def base(i, t):
        moved = (images[i] @ into) @ core @ (out.T @ texts[t])
        return convex.SCALE * (images[i] @ texts[t] - hub_image[i] / 2 - hub_text[t] / 2 + moved)

    total = 0.0
    for i, t in owned:
        own = math.exp(base(i, t))
        row = own + sum(math.exp(logit(i, j)) for j in range(len(texts)) if (i, j) not in owned)
        column = own + sum(math.exp(logit(j, t)) for j in range(len(images)) if (j, t) not in owned)
        total += (math.log(row) + math.log(column) - 2 * base(i, t)) / 2
    return total / len(owned) + mu / 2 * float((core**2).sum())


def test_the_objective_equals_plain_loops_and_its_gradient_the_slope(corpus):
    pairs = TrainingPairs.gather(small(corpus))
    problem = convex._Problem.of(pairs)
    core = 0.1 * np.random.default_rng(0).normal(size=(5, 5))
    value, gradient = problem(core.ravel(), 0.3)
    assert value == pytest.approx(plain(pairs, core, 0.3, problem), rel=1e-4)
    step = 1e-2
    for place in (0, 7, 24):
        ahead, behind = core.ravel().copy(), core.ravel().copy()
        ahead[place] += step
        behind[place] -= step
        slope = (problem(ahead, 0.3)[0] - problem(behind, 0.3)[0]) / (2 * step)
        assert gradient[place] == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_whatever_the_start_the_minimum_is_the_same(corpus):
    problem = convex._Problem.of(TrainingPairs.gather(small(corpus)))
    rng = np.random.default_rng(0)
    ends = [
        scipy.optimize.minimize(problem, start, args=(1.0,), jac=True, method="L-BFGS-B").fun
        for start in (np.zeros(25), rng.normal(size=25))
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


def test_an_infinite_penalty_leaves_the_cosine(corpus):
    scorer = Convex(strengths=(1e12,), device="cpu").fit(corpus.data, "t2i")
    batch = corpus.random_batch(dim=24)
    cosine = torch.einsum("bd,bld->bl", batch.query, batch.candidates)
    torch.testing.assert_close(scorer.score(batch), cosine, rtol=1e-3, atol=1e-3)


def test_of_too_many_captions_some_are_left_out(corpus, monkeypatch):
    monkeypatch.setattr(convex, "MOST", 200 * 100)
    problem = convex._Problem.of(TrainingPairs.gather(corpus.data))
    assert problem.logits.shape == (200, 100)
    assert len(problem.image) == 100
    whole = TrainingPairs.gather(corpus.data)
    known = set(zip(whole.image.tolist(), whole.text.tolist(), strict=True))
    kept = torch.linspace(0, len(whole.texts) - 1, 100).long()
    assert all((int(i), int(kept[t])) in known for i, t in zip(problem.image, problem.text, strict=True))
    found = Convex(device="cpu").fit(corpus.data, "t2i")
    assert bool(torch.isfinite(found.score(corpus.random_batch(dim=24))).all())
