"""Codes that no network learns, over a space whose sides lie in two cones."""

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import judge
from rank_xmodal.retrieval import quantisers
from rank_xmodal.retrieval.gallery import rank_gallery

QUICK = {"bits": 32, "device": "cpu"}
FEW = {"bits": 12, "device": "cpu"}


@pytest.fixture(scope="module")
def two_cones(corpus):
    """Return 600 pairs of 48 numbers, each side about a point of its own, a third of them test."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(600, 48)) * np.linspace(2.0, 0.2, 48)
    sides = [common + 0.2 * rng.normal(size=common.shape) + 4 * rng.normal(size=48) for _ in range(2)]
    splits = np.resize(["train", "train", "test"], 600)
    rows = np.arange(600)
    return corpus.embedding_set(*sides, np.stack([rows, rows], 1), splits, splits)


def hits(space, data, direction):
    gallery = rank_gallery(data, direction, "test", space=space, first_stage="codes")
    return judge({"ranker": torch.from_numpy(gallery.lists.cosine)}, gallery)[0]["ranker"]["R@10"]


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_each_side_less_its_own_mean_is_better_than_one_mean_for_both(two_cones, direction):
    own = scorers.get("itq", **QUICK).fit(two_cones, direction)
    train = two_cones.candidate_rows("t2i", "train")
    both = np.concatenate([two_cones.image_emb[train], two_cones.text_emb[train]])
    assert hits(own, two_cones, direction) > 0.7 > 0.3 > hits(quantisers.itq(both, 32), two_cones, direction)


@pytest.mark.parametrize("rotation", ["itq", "lsh"])
def test_a_few_bits_find_much(two_cones, rotation):
    scorer = scorers.get("itq", rotation=rotation, **FEW).fit(two_cones, "t2i")
    assert hits(scorer, two_cones, "t2i") > 0.5 > 10 / 200


@pytest.mark.parametrize("rotation", ["itq", "lsh"])
def test_the_seed_decides(two_cones, rotation):
    one, same, other = (
        scorers.get("itq", rotation=rotation, **QUICK).fit(two_cones, "t2i", seed=seed).state["image.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_more_bits_than_an_embedding_has_numbers_are_refused(two_cones):
    with pytest.raises(UserError, match=r"bits=64.*at most 48; ask for fewer, or use lsh \(rotation=lsh\)"):
        scorers.get("itq", bits=64, device="cpu").fit(two_cones, "t2i")


def test_by_default_a_code_is_as_long_as_an_embedding_has_numbers_at_most(two_cones):
    assert scorers.get("itq", device="cpu").fit(two_cones, "t2i").config["bits"] == 48
