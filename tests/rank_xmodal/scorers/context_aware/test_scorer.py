"""The network that settings describe."""

import numpy as np
import pandas as pd
import pytest

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.context_aware.ranker import ALL_BLOCKS, LEAN_BLOCKS
from rank_xmodal.scorers.context_aware.scorer import ContextAware
from rank_xmodal.scorers.list_trained import SMALL


def test_only_a_large_training_set_gets_the_bilinear_block():
    def blocks(lists, features="embeddings", **values):
        return ContextAware(features=features, **values).network_config(8, 0.03, lists).blocks

    assert "bilinear" not in blocks(SMALL - 1)
    assert "bilinear" in blocks(SMALL)
    assert blocks(SMALL, features="concat") == ("concat",)
    assert blocks(SMALL, blocks=["cosine"]) == ("cosine",)
    assert blocks(10, without=["concat", "hubness"]) == ("product", "cosine")


def test_the_bilinear_block_learns_a_rotation_that_the_product_cannot_express(corpus):
    """Captions whose dimensions are shuffled in pairs: no weighting of the product's dimensions undoes that."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(900, 16))
    text = image + 0.6 * rng.normal(size=image.shape)
    text[:, :8] = text[:, [1, 0, 3, 2, 5, 4, 7, 6]]
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    splits = np.array(["train"] * 600 + ["test"] * 300)
    rows = np.arange(900)
    data = EmbeddingSet(
        image.astype(np.float16),
        text.astype(np.float16),
        pd.DataFrame({"image_id": rows.astype(str), "path": "", "split": splits}),
        pd.DataFrame({"text_id": rows.astype(str), "text": "", "split": splits}),
        pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
        {"fingerprint": "shuffled"},
    )
    found = {}
    for name, blocks in (("lean", LEAN_BLOCKS), ("all", ALL_BLOCKS)):
        plan = corpus.chosen(epochs=10, lr=3e-3, batch_size=16, blocks=list(blocks))
        report, _ = corpus.report_of(corpus.train(data, corpus.lists_of(data), plan), data)
        found[name], clip = report["ranker"]["R@1"], report["clip"]["R@1"]
    assert found["all"] > found["lean"] + 0.1
    assert found["all"] > clip + 0.1


def test_settings_of_one_kind_of_features_are_refused_or_mean_it():
    assert ContextAware().settings.features == "full"
    for values in ({"residual": False}, {"blocks": ["cosine"]}, {"without": ["concat"]}, {"on": "vsepp"}):
        assert ContextAware(**values).settings.features == "embeddings", values
        if "on" not in values:
            with pytest.raises(UserError, match="is a setting of features=embeddings, not of features=full"):
                ContextAware(features="full", **values)
    for values in ({"scores": ["cosine"]}, {"folds": 3}):
        with pytest.raises(UserError, match="is a setting of features=full, not of features=embeddings"):
            ContextAware(features="embeddings", **values)
    for folds in (1, 0, -1):
        with pytest.raises(UserError, match="greater than or equal to 2"):
            ContextAware(folds=folds)
