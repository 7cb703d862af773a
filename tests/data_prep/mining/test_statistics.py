"""What a mining reports, against numpy at one go."""

import numpy as np

from data_prep.mining.statistics import similarities


def test_similarities_gathered_in_parts_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr("data_prep.mining.statistics._VALUES", 50)
    rng = np.random.default_rng(0)
    cosine = rng.random((40, 9), dtype=np.float32)
    labels = rng.choice(np.array([-1, 0, 0, 0, 1, 2], np.int8), (40, 9))
    labels[5] = 0  # a list without a positive has no difference
    found = similarities(cosine, labels)
    best = [row[grades > 0].max() if (grades > 0).any() else None for row, grades in zip(cosine, labels, strict=True)]
    difference = [
        top - row[grades == 0] for top, row, grades in zip(best, cosine, labels, strict=True) if top is not None
    ]
    wanted = {
        "positive": cosine[labels > 0], "negative": cosine[labels == 0], "difference": np.concatenate(difference),
    }  # fmt: skip
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        exact = values.astype(np.float64)
        expected = [exact.mean(), exact.std(), *np.percentile(exact, [0, 25, 50, 75, 100])]
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    assert similarities(cosine, np.zeros_like(labels)).keys() == {"negative"}
