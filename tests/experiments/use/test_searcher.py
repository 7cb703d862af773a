"""The searcher: both orders of one list, filters as users write them, and an index in place of a run and its set."""

import numpy as np
import pytest

from data_prep.encoder import load_encoder
from experiments.use.queries import Queries
from experiments.use.searcher import Searcher
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import DEPTH
from rank_xmodal.retrieval.query_bank import own_queries
from rank_xmodal.use.reranker import Reranker


def quiet(line):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory, random_set):
    """Return a folder with a run `csls`, calibrated `sure`, and their set, whose encoder nobody knows."""
    from experiments.run.train import run_training

    folder = tmp_path_factory.mktemp("searcher")
    data = random_set(["train"] * 60 + ["val"] * 20 + ["test"] * 40, noise=1.0).write(folder / "set")
    for name, plan in (("csls", {"scorer": "csls"}), ("vsepp", {"scorer": "vsepp", "epochs": 1, "calibrate": True})):
        settings = scorers.parse({**plan, "device": "cpu"})
        run_training(data, "t2i", settings, folder / name, tracking=None, say=quiet)
    return folder, data


def asked(data, rows):
    rows = list(rows)
    return Queries(data.texts["text"].iloc[rows].tolist(), np.asarray(data.text_emb[rows]), None, 0.0)


def test_both_orders_are_of_one_list(made):
    folder, data = made
    searcher = Searcher.of_run(folder / "csls", data, device="cpu", say=quiet)
    cosine = np.asarray(data.text_emb, dtype=np.float32) @ np.asarray(data.image_emb, dtype=np.float32).T
    for row, answer in zip(range(90, 96), searcher.search(asked(data, range(90, 96)), 8), strict=True):
        expected = np.argsort(-cosine[row], kind="stable")[:DEPTH]
        assert answer.found == DEPTH
        assert [hit.row for hit in answer.clip] == expected[:8].tolist()
        assert [hit.clip_rank for hit in answer.clip] == list(range(1, 9))
        assert [hit.rank for hit in answer.hits] == list(range(1, 9))
        place = {row: at for at, row in enumerate(expected.tolist(), start=1)}
        assert [hit.clip_rank for hit in answer.hits] == [place[hit.row] for hit in answer.hits]
        ranks = {hit.row: hit.rank for hit in answer.hits}
        assert all(hit.rank == ranks.get(hit.row, hit.rank) and hit.rank for hit in answer.clip)
        assert [hit.id for hit in answer.hits] == [f"i{hit.row}" for hit in answer.hits]
        scores = [hit.score for hit in answer.hits]
        assert scores == sorted(scores, reverse=True)
        np.testing.assert_allclose([hit.cosine for hit in answer.clip], cosine[row][expected[:8]], atol=1e-3)


def test_a_calibrated_run_tells_probabilities_that_k_does_not_change(made):
    folder, data = made
    searcher = Searcher.of_run(folder / "vsepp", data, device="cpu", say=quiet)
    one, many = (searcher.search(asked(data, [100]), k)[0] for k in (1, 30))
    assert one.hits[0].probability == many.hits[0].probability
    assert 0 < one.hits[0].probability < 1


def test_a_split_and_a_filter_of_it_find_the_same(made):
    folder, data = made
    by_split = Searcher.of_run(folder / "csls", data, split="test", device="cpu", say=quiet)
    whole = Searcher.of_run(folder / "csls", data, device="cpu", say=quiet)
    (first,), (second,) = (
        by_split.search(asked(data, [100]), 5),
        whole.search(asked(data, [100]), 5, where={"split": "test"}),
    )
    assert [hit.id for hit in first.hits] == [hit.id for hit in second.hits]
    assert len(by_split) == 40
    assert len(by_split.search(asked(data, [100]), 500)[0].hits) == 40
    assert whole.choices() == {"split": ["test", "train", "val"]}
    assert by_split.choices() == {}, "a column of one value is no choice"


def test_an_index_answers_as_the_run_and_its_set(made, tmp_path):
    folder, data = made
    reranker, rows = Reranker.from_pretrained(folder / "csls", "cpu"), np.arange(120)
    reranker.index(
        np.asarray(data.image_emb), ids=data.images["image_id"].tolist(),
        metadata={"height": list(range(120)), "ratio": [0.5] * 120, "sold": [row % 2 == 0 for row in range(120)]},
        own=own_queries(data, "t2i", rows, reranker.stack.bank),
    ).save(tmp_path / "index")  # fmt: skip
    index = Searcher.of_index(tmp_path / "index", device="cpu", say=quiet)
    run = Searcher.of_run(folder / "csls", data, device="cpu", say=quiet)
    (ours,), (theirs,) = (one.search(asked(data, [100]), 5) for one in (index, run))
    assert [(hit.id, hit.clip_rank) for hit in ours.hits] == [(hit.id, hit.clip_rank) for hit in theirs.hits]
    assert [hit.item for hit in ours.hits] == [""] * 5
    assert index.image_file(0) == ""
    where = index.where_of(["height=5", "height=7", "ratio=0.5", "sold=false"])
    assert where == {"height": [5, 7], "ratio": [0.5], "sold": [False]}
    assert sorted(hit.row for hit in index.search(asked(data, [100]), 5, where=where)[0].hits) == [5, 7]
    for written, said in (
        ("height=tall", r"--where 'height=tall': 'tall' is no value of a column of int64"),
        ("height", r"--where 'height': write it as column=value"),
        ("=5", r"write it as column=value"),
        ("heigth=5", r"where='heigth': the index has no such column; it has id, height, ratio, sold"),
    ):
        with pytest.raises(UserError, match=said):
            index.where_of([written])
    with pytest.raises(UserError, match="doesn't say which encoder made it"):
        index.queries(["a caption"])


@pytest.mark.parametrize(("k", "depth"), [(0, None), (-1, 5), (5, 0)])
def test_numbers_that_cannot_be_are_said(made, k, depth):
    folder, data = made
    searcher = Searcher.of_run(folder / "csls", data, device="cpu", say=quiet)
    with pytest.raises(UserError, match="must be an integer of 1 or more"):
        searcher.search(asked(data, [0]), k, depth=depth)


def test_images_without_captions_are_found_and_find_nothing(made, tmp_path, random_set):
    from experiments.run.train import run_training

    folder, data = made
    alone = EmbeddingSet(
        data.image_emb, np.empty((0, 8), np.float16), data.images, data.texts.iloc[:0], data.relevance.iloc[:0],
        {"name": "alone"},
    ).write(tmp_path / "alone")  # fmt: skip
    searcher = Searcher.of_run(folder / "csls", alone, device="cpu", say=quiet)
    assert len(searcher.search(asked(data, [100]), 5)[0].hits) == 5
    settings = scorers.parse({"scorer": "csls", "device": "cpu"})
    run_training(data, "i2t", settings, tmp_path / "i2t", tracking=None, say=quiet)
    with pytest.raises(UserError, match=r"alone: holds no captions to be found by .*i2t \(i2t\)"):
        Searcher.of_run(tmp_path / "i2t", alone, device="cpu", say=quiet)


def test_an_index_that_was_emptied_finds_nothing(made, tmp_path):
    folder, data = made
    index = Reranker.from_pretrained(folder / "csls", "cpu").index(np.asarray(data.image_emb)).save(tmp_path / "index")
    index.remove(list(range(120)))
    searcher = Searcher.of_index(tmp_path / "index", device="cpu", say=quiet)
    assert len(searcher) == 0
    (answer,) = searcher.search(asked(data, [3]), 5)
    assert (answer.hits, answer.clip, answer.found) == ([], [], 0)
    assert searcher.choices() == {}


@pytest.mark.parametrize("store", ["exact", "lance"])
def test_what_was_removed_is_no_choice(made, tmp_path, store):
    folder, data = made
    if store == "lance":
        pytest.importorskip("lancedb")
    index = Reranker.from_pretrained(folder / "csls", "cpu").index(
        np.asarray(data.image_emb), metadata={"split": data.images["split"].tolist(), "sold": [True, None] * 60}
    )
    index.save(tmp_path / "index", store=store).remove(range(60))
    searcher = Searcher.of_index(tmp_path / "index", device="cpu", say=quiet)
    assert searcher.choices() == {"split": ["test", "val"]}


def test_rows_have_the_files_that_the_set_names(made, random_set, tmp_path):
    folder, _ = made
    data = random_set(["train"] * 60 + ["val"] * 20 + ["test"] * 40, noise=1.0)
    paths = [f"photos/{row}.jpg" if row else "" for row in range(120)]
    named = EmbeddingSet(
        data.image_emb, data.text_emb, data.images.assign(path=paths), data.texts, data.relevance, data.meta
    ).write(tmp_path / "named")
    searcher = Searcher.of_run(folder / "csls", named, split="test", device="cpu", say=quiet)
    assert searcher.image_file(0) == str(tmp_path / "named/photos/80.jpg")
    assert [searcher.image_file(row) for row in (-1, 40, 10**9)] == ["", "", ""]
    everything = Searcher.of_run(folder / "csls", named, device="cpu", say=quiet)
    assert everything.image_file(0) == ""


def test_pictures_and_files_are_encoded_alike_and_an_encoder_is_shared(tmp_path):
    from PIL import Image

    from experiments.use.queries import QueryEncoder

    encoder = load_encoder("scenes-clip", "scenes", "cpu", say=quiet)
    image = Image.new("RGB", (40, 30), (200, 20, 20))
    image.save(tmp_path / "red.png")
    facts = encoder.identity
    first, second = QueryEncoder(facts, "set", device="cpu", say=quiet), QueryEncoder(facts, "other", say=quiet)
    second.share(first)
    assert second.encoder is first.encoder
    found = first([image, tmp_path / "red.png"], True)
    np.testing.assert_array_equal(found.embeddings[0], found.embeddings[1])
    with found.content() as content:
        assert content[1] == str(tmp_path / "red.png")
        assert Image.open(content[0]).getpixel((0, 0)) == (200, 20, 20)
    with pytest.raises(FileNotFoundError):
        Image.open(content[0])
    assert found.select([1]).given == [tmp_path / "red.png"]
