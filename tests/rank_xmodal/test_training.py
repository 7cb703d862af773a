"""Query bank, evaluation, training, the ranker's folder and the reranker, on a planted corpus."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from rank_xmodal import losses, metrics, ranker_folder, settings
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import evaluate, first_stage, per_query
from rank_xmodal.query_bank import choose_bank, hubness, leave_out, neighbours, training_neighbours
from rank_xmodal.ranker import ALL_BLOCKS, LEAN_BLOCKS
from rank_xmodal.reranker import Reranker
from rank_xmodal.training import SMALL, ranker_config, spread_of, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted(images=400, per_image=2, d=24, seed=0):
    """Return a corpus in which half of the dimensions are noise and some images are hubs: there is much to learn."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(images, d))
    text = np.repeat(image, per_image, axis=0)
    text = text + rng.normal(size=text.shape) * np.r_[np.full(d // 2, 0.5), np.full(d // 2, 3.0)]
    image[::10] += 2.0 * text.mean(axis=0) / np.linalg.norm(text.mean(axis=0))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    splits = np.array(["train"] * (images // 2) + ["val"] * (images // 4) + ["test"] * (images - images // 4 * 3))
    return EmbeddingSet(
        image.astype(np.float16),
        text.astype(np.float16),
        pd.DataFrame({"image_id": [f"i{k}" for k in range(images)], "path": "", "split": splits}),
        pd.DataFrame(
            {
                "text_id": [f"t{k}" for k in range(images * per_image)],
                "text": [f"caption {k}" for k in range(images * per_image)],
                "split": np.repeat(splits, per_image),
            }
        ),
        pd.DataFrame(
            {"image": np.repeat(np.arange(images), per_image), "text": np.arange(images * per_image), "grade": 1}
        ),
        {"fingerprint": f"planted {seed}"},
    )


DATA = planted()


def lists_of(data, direction="t2i"):
    stage = first_stage(data, direction, "train", depth=30)
    kept = (stage.lists.labels > 0).any(axis=1)
    arrays = {name: getattr(stage.lists, name)[kept] for name in ("query", "candidates", "labels", "cosine")}
    return CandidateLists(**arrays, info=stage.lists.info)


def chosen(**values):
    return settings.parse({"epochs": 3, "batch_size": 32, "device": "cpu", "dropout": 0.1, **values})


def r1(trained, data=DATA, direction="t2i"):
    stage = first_stage(data, direction, "test")
    report, _ = evaluate(trained.model, data, stage, neighbours(data.candidates(direction), trained.bank), CPU)
    return report["ranker"]["R@1"], report["clip"]["R@1"], report


# --- query bank ---


def test_training_neighbours_leave_out_who_asks_for_the_candidate():
    rows = choose_bank(DATA, "t2i")
    near = training_neighbours(DATA, "t2i", rows)
    scores = DATA.image_emb.astype(np.float64) @ DATA.text_emb[rows].astype(np.float64).T
    owner = DATA.relevance["image"].to_numpy()[rows]
    for image in (0, 3, 150, 399):
        others = np.sort(scores[image][owner != image])[::-1][:10]
        np.testing.assert_allclose(near.cosine[image, :10].numpy(), others, atol=1e-6)
        assert image not in near.group[image].tolist()


def test_a_lists_own_query_and_its_siblings_are_left_out_of_its_candidates_hubness():
    cosine = torch.tensor([[[0.9, 0.8, 0.7, 0.6]]])
    group = torch.tensor([[[5, 7, 5, 2]]])
    found = leave_out(cosine, group, torch.tensor([5]))
    assert found[0, 0].tolist()[:2] == pytest.approx([0.8, 0.6])
    assert float(hubness(found)) == pytest.approx(0.7)
    assert float(hubness(leave_out(cosine, group, torch.tensor([-1])))) == pytest.approx(0.75)
    assert float(hubness(torch.full((1, 3), -math.inf))) == 0.0


def test_a_bank_is_bounded_and_repeats_with_its_seed():
    assert len(choose_bank(DATA, "t2i", largest=50, seed=1)) == 50
    np.testing.assert_array_equal(choose_bank(DATA, "t2i", largest=50), choose_bank(DATA, "t2i", largest=50))
    assert set(DATA.texts["split"].to_numpy()[choose_bank(DATA, "t2i")]) == {"train"}


# --- evaluation ---


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_evaluation_equals_a_plain_count(direction):
    stage = first_stage(DATA, direction, "test", depth=12)
    values = per_query(torch.from_numpy(stage.lists.cosine), stage)
    gallery = DATA.candidate_rows(direction, "test")
    relevant = DATA.relevance_matrix(direction).toarray()
    for place, query in enumerate(stage.lists.query):
        cosine = DATA.candidates(direction)[gallery].astype(np.float64) @ DATA.queries(direction)[query].astype(
            np.float64
        )
        order = gallery[np.argsort(-cosine, kind="stable")]
        ranks = [rank + 1 for rank, row in enumerate(order) if relevant[query, row]]
        listed = [rank for rank in ranks if rank <= 12]
        for k in (1, 5, 10):
            assert float(values[f"R@{k}"][place]) == any(rank <= k for rank in listed)
        assert float(values["MRR"][place]) == pytest.approx(1 / listed[0] if listed else 0.0)
        gain = sum(1 / math.log2(1 + rank) for rank in listed if rank <= 10)
        ideal = sum(1 / math.log2(2 + i) for i in range(min(10, len(ranks))))
        assert float(values["NDCG@10"][place]) == pytest.approx(gain / ideal)
        assert float(values["MeanRank"][place]) == ranks[0]
    assert stage.ceiling == pytest.approx(float((values["MRR"] > 0).double().mean()))


def test_a_report_has_the_fields_of_the_contract():
    trained = train(DATA, lists_of(DATA), chosen(epochs=1))
    _, _, report = r1(trained)
    assert {"direction", "split", "queries", "candidates", "ceiling", "clip", "csls", "ranker"} <= set(report)
    assert set(metrics.DEFAULT) <= set(report["ranker"])
    assert report["queries"] == 200
    assert report["candidates"] == 51


# --- training ---


@pytest.mark.parametrize("loss", losses.names())
def test_every_loss_beats_clip(loss):
    trained = train(
        DATA,
        lists_of(DATA),
        chosen(loss=loss, epochs=12, lr=5e-3, batch_size=16),
        validation=first_stage(DATA, "t2i", "val"),
    )
    ranker, clip, _ = r1(trained)
    # Half of the dimensions are noise. With the product at its natural length, 1 / sqrt(d), a training stood still for
    # seven epochs before it saw that, and SmoothAP never did.
    assert ranker > clip + 0.25


def test_shuffled_labels_do_not_beat_clip():
    lists = lists_of(DATA)
    rng = np.random.default_rng(0)
    lists.labels[:] = rng.permuted(lists.labels, axis=1)
    trained = train(DATA, lists, chosen(epochs=4, lr=3e-3))
    ranker, clip, _ = r1(trained)
    assert ranker <= clip + 0.02


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not():
    first, again, other = (train(DATA, lists_of(DATA), chosen(seed=s, epochs=1)).model.state_dict() for s in (4, 4, 5))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path):
    validation = first_stage(DATA, "t2i", "val")
    whole = train(DATA, lists_of(DATA), chosen(), validation=validation)
    seen = []

    def interrupt(epoch, step, steps):
        seen.append(epoch)
        if (epoch, step) == (3, 2):
            raise KeyboardInterrupt

    place = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(DATA, lists_of(DATA), chosen(), validation=validation, checkpoint=place, on_step=interrupt)
    assert sorted(p.name for p in place.iterdir()) == ["state.json", "state.safetensors"]
    seen.clear()
    resumed = train(
        DATA, lists_of(DATA), chosen(), validation=validation, checkpoint=place, on_step=lambda e, s, n: seen.append(e)
    )
    assert set(seen) == {3}, "finished epochs are not done again"
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert [h["val_MRR"] for h in resumed.history] == [h["val_MRR"] for h in whole.history]
    assert resumed.best_epoch == whole.best_epoch
    assert not place.exists()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    def interrupt(epoch, step, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(DATA, lists_of(DATA), chosen(), checkpoint=tmp_path / "c", on_step=interrupt)
    with pytest.raises(UserError, match="other settings"):
        train(DATA, lists_of(DATA), chosen(lr=0.5), checkpoint=tmp_path / "c")


def test_nan_stops_the_run_with_epoch_and_cause(monkeypatch):
    def broken(scores, labels):
        return (scores * math.nan).sum()

    monkeypatch.setattr("rank_xmodal.losses.get", lambda name, **params: broken)
    with pytest.raises(UserError, match=r"epoch 1, step 1: the scores are finite .* the loss listnet is not"):
        train(DATA, lists_of(DATA), chosen())


def test_lists_that_teach_nothing_are_refused():
    lists = lists_of(DATA)
    lists.labels[:] = 0
    with pytest.raises(UserError, match="both a relevant and a non-relevant"):
        train(DATA, lists, chosen())


def test_the_kept_epoch_is_within_a_standard_error_of_the_best():
    trained = train(DATA, lists_of(DATA), chosen(epochs=5, lr=3e-2), validation=first_stage(DATA, "t2i", "val"))
    values = [h["val_MRR"] for h in trained.history]
    assert values[trained.best_epoch] >= max(values) - 0.03
    assert trained.best_epoch > 0


def test_training_stops_early(monkeypatch):
    monkeypatch.setattr("rank_xmodal.training._State._good_enough", lambda state, by_query: not state.best_epoch)
    trained = train(DATA, lists_of(DATA), chosen(epochs=9, patience=2), validation=first_stage(DATA, "t2i", "val"))
    assert len(trained.history) == 1 + 3, "the untrained ranker, the best epoch and two without a better one"


def test_the_spread_is_the_mean_standard_deviation_without_padding():
    lists = CandidateLists(
        np.arange(2, dtype=np.int32),
        np.array([[0, 1, -1], [0, 1, 2]], np.int32),
        np.zeros((2, 3), np.int8),
        np.array([[0.1, 0.3, 9.0], [0.0, 0.3, 0.6]], np.float32),
    )
    assert spread_of(lists) == pytest.approx((0.1 + np.std([0.0, 0.3, 0.6])) / 2, rel=1e-5)


# --- on disk and in use ---


def test_a_ranker_survives_the_disk(tmp_path):
    trained = train(DATA, lists_of(DATA), chosen(epochs=1))
    ranker_folder.save(tmp_path / "run", trained.model, trained.bank, {"direction": "t2i"}, "# card")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "query_bank.npy",
    ]
    reranker = Reranker.from_pretrained(tmp_path / "run", device="cpu")
    images = np.asarray(DATA.image_emb[DATA.candidate_rows("t2i", "test")])
    names = [f"image {k}" for k in range(len(images))]
    index = reranker.index(images.astype(np.float32) * 3.0, ids=names)  # any length: it is scaled
    stage = first_stage(DATA, "t2i", "test", depth=50)
    near = neighbours(DATA.image_emb, trained.bank)
    _, values = evaluate(trained.model, DATA, stage, near, CPU)
    hits = index.search(np.asarray(DATA.text_emb[stage.lists.query]), k=10)
    first = DATA.candidate_rows("t2i", "test")[0]
    owner = DATA.relevance["image"].to_numpy()[stage.lists.query] - first
    found = np.array([hit[0] == f"image {o}" for hit, o in zip(hits.ids, owner, strict=True)])
    np.testing.assert_array_equal(found, values["ranker"]["R@1"].numpy() == 1)
    assert hits.ids.shape == hits.scores.shape == (200, 10)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    with pytest.raises(ValueError, match="k=0"):
        index.search(images, k=0)
    with pytest.raises(ValueError, match=r"\(n, 24\)"):
        index.search(images[:, :5])
    with pytest.raises(ValueError, match="row 1 is zero"):
        reranker.index(np.stack([images[0], np.zeros(24)]))
    (tmp_path / "run" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="not a whole ranker"):
        Reranker.from_pretrained(tmp_path / "run")
    with pytest.raises(UserError, match="holds no trained ranker"):
        Reranker.from_pretrained(tmp_path)


@pytest.mark.parametrize("loss", ["lambdarank", "neuralndcg", "listnet", "ranknet"])
def test_allrank_trains_on_our_lists(loss):
    pytest.importorskip("allrank.models.model")
    trained = train(DATA, lists_of(DATA), chosen(ranker="allrank", loss=loss, epochs=1, layers=1))
    assert all(math.isfinite(h["loss"]) for h in trained.history[1:])
    assert 0 <= r1(trained)[0] <= 1


def test_only_a_large_training_set_gets_the_bilinear_block():
    def blocks(lists, **values):
        return ranker_config(chosen(**values), 8, 0.03, lists).blocks

    assert "bilinear" not in blocks(SMALL - 1)
    assert "bilinear" in blocks(SMALL)
    assert blocks(SMALL, features="concat") == ("concat",)
    assert blocks(SMALL, blocks=["cosine"]) == ("cosine",)
    assert blocks(10, without=["concat", "hubness"]) == ("product", "cosine")


def test_the_bilinear_block_learns_a_rotation_that_the_product_cannot_express():
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
        plan = chosen(epochs=10, lr=3e-3, batch_size=16, blocks=list(blocks))
        found[name], clip, _ = r1(train(data, lists_of(data), plan), data)
    assert found["all"] > found["lean"] + 0.1
    assert found["all"] > clip + 0.1
