"""An index that lives: filtered, grown, shrunk, saved and opened again, always what a plain loop finds."""

import dataclasses
import json
import os

import numpy as np
import pyarrow as pa
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.quantisers import itq
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.folder import save
from rank_xmodal.scorers.stack import fit_stack
from rank_xmodal.use import exact_store, index_folder
from rank_xmodal.use.index import Index
from rank_xmodal.use.reranker import Reranker

CPU = torch.device("cpu")


def unit(count, seed, dim=24):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(params=["clip", "own"])
def reranker(request, corpus):
    """CSLS over CLIP's space; or over a projection's, which finds the candidates, too."""
    if request.param == "clip":
        return Reranker(Stack(CSLS(), unit(30, 9)), {"direction": "t2i"}, CPU), "clip"
    return corpus_ranker(corpus), "own"


def corpus_ranker(corpus):
    stack = fit_stack(scorers.get("csls"), corpus.data, "t2i", base=scorers.get("cca", components=8), device=CPU)
    return Reranker(stack, {"direction": "t2i"}, CPU)


def ids_of(count, first=0):
    return [f"item {row}" for row in range(first, first + count)]


def split_of(count):
    return ["train" if row % 3 else "test" for row in range(count)]


def same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(one.cosine, other.cosine)


def test_what_is_saved_is_found_again(reranker, tmp_path):
    ranker, stage = reranker
    index = ranker.index(unit(300, 0), ids=ids_of(300), metadata={"split": split_of(300)}, first_stage=stage)
    asked = unit(7, 1)
    kept = index.save(tmp_path / "index")
    assert isinstance(kept.store.prepared.embeddings, np.memmap)
    assert len(kept) == len(index) == 300
    same(kept.search(asked, k=5), index.search(asked, k=5))
    same(kept.search(asked, k=5, where={"split": "test"}), index.search(asked, k=5, where={"split": "test"}))
    opened = Index.load(tmp_path / "index", verify=True)
    same(opened.search(asked, k=5), index.search(asked, k=5))
    assert sorted(os.listdir(tmp_path)) == ["index"]


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_corpus_that_grew_and_shrank_is_one_made_at_once(reranker, tmp_path, where):
    ranker, stage = reranker
    embeddings, asked = unit(300, 0), unit(7, 1)
    index = ranker.index(embeddings[:100], ids=ids_of(100), first_stage=stage)
    if where == "folder":
        index = index.save(tmp_path / "index")
    for start in (100, 101, 200):
        stop = {100: 101, 101: 200, 200: 300}[start]
        index.add(embeddings[start:stop], ids=ids_of(stop - start, start))
    gone = [f"item {row}" for row in range(0, 300, 7)]
    assert index.remove(gone[:20]) == 20
    assert index.remove(gone[20:]) == len(gone) - 20
    left = np.array([row for row in range(300) if row % 7])
    assert len(index) == len(left)
    fresh = ranker.index(embeddings[left], ids=[f"item {row}" for row in left], first_stage=stage)
    same(index.search(asked, k=9), fresh.search(asked, k=9))
    np.testing.assert_array_equal(left[fresh.search(asked, k=9).rows], index.search(asked, k=9).rows)
    if where == "folder":
        same(Index.load(tmp_path / "index", verify=True).search(asked, k=9), fresh.search(asked, k=9))
        packed = index.save(tmp_path / "packed")
        assert packed.store.next_row == len(left), "removed rows are not copied"
        same(packed.search(asked, k=9), fresh.search(asked, k=9))


@pytest.mark.parametrize("few", [0.0, 1.0])
def test_a_filter_leaves_the_top_of_what_passes(reranker, monkeypatch, few):
    monkeypatch.setattr(exact_store, "_FEW", few)  # both ways of searching
    ranker, stage = reranker
    embeddings, asked, number = unit(200, 0), unit(5, 1), list(range(200))
    index = ranker.index(embeddings, metadata={"split": split_of(200), "number": number}, first_stage=stage)
    index.remove([3, 9])
    kept = np.array([row for row in range(0, 200, 3) if row not in (3, 9)])
    alone = ranker.index(embeddings[kept], ids=kept, first_stage=stage)
    same(index.search(asked, k=4, where={"split": "test"}), alone.search(asked, k=4))
    some = index.search(asked, k=10, where={"number": [5, 6, 7], "split": ["train", "test"]})
    assert some.ids.shape == (5, 3)
    assert (np.sort(some.ids, 1) == [5, 6, 7]).all()
    assert index.search(asked, k=10, where={"number": 3}).ids.shape == (5, 0), "it was removed"
    for wrong, said in (
        ({"colour": "red"}, "'colour': the index has no such column; it has id, split, number"),
        ({"number": "many"}, r"where 'number': \['many'\] are no values of a column of int64"),
        ({"split": []}, "'split': allows no value at all"),
        ({"number": 2**70}, "are no values of a column of int64"),
    ):
        with pytest.raises(ValueError, match=said):
            index.search(asked, where=wrong)


def test_anyones_rows_are_put_in_the_order_of_a_search(reranker):
    ranker, stage = reranker
    index, asked = ranker.index(unit(60, 0), ids=ids_of(60), first_stage=stage), unit(4, 1)
    every = np.tile(np.arange(60), (4, 1))
    same(index.rank(asked, every, k=6), index.search(asked, k=6, depth=60))
    rng = np.random.default_rng(0)
    some = np.stack([rng.permutation(60)[:12] for _ in range(4)])
    padded = np.concatenate([some, np.full((4, 3), -1)], axis=1)  # as FAISS returns where it finds too few
    hits = index.rank(asked, padded)
    assert (hits.rows[:, 12:] == -1).all()
    assert (hits.ids[:, 12:] == None).all()  # noqa: E711
    assert np.isneginf(hits.scores[:, 12:]).all()
    np.testing.assert_array_equal(np.sort(hits.rows[:, :12]), np.sort(some))
    np.testing.assert_allclose(hits.scores[:, :12], index.rank(asked, some).scores, rtol=1e-5, atol=1e-6)
    one = index.rank(asked[0], some[0])
    assert one.ids.shape == (12,)
    for wrong in (np.zeros((3, 2), int), np.zeros((4, 2)), np.zeros(4, int)):
        with pytest.raises(ValueError, match="for 4 queries: give integers"):
            index.rank(asked, wrong)
    with pytest.raises(ValueError, match="row 60: the index has rows 0 to 59"):
        index.rank(asked, np.full((4, 2), 60))
    index.remove(["item 5"])
    with pytest.raises(ValueError, match="row 5: was removed"):
        index.rank(asked, np.full((4, 2), 5))
    assert index.rank(asked, np.full((4, 2), -1)).rows.tolist() == [[-1, -1]] * 4


def test_more_than_there_is_is_all_there_is(reranker):
    ranker, stage = reranker
    index, asked = ranker.index(unit(9, 0), first_stage=stage), unit(2, 1)
    assert index.search(asked, k=1_000, depth=2_000).ids.shape == (2, 9)
    index.remove(range(9))
    assert len(index) == 0
    assert index.search(asked, k=3).ids.shape == (2, 0)
    index.add(unit(2, 5))
    assert sorted(index.search(asked[0], k=3).ids) == [9, 10], "numbers go on"


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_queries_of_any_kind(reranker, kind):
    ranker, stage = reranker
    index, asked = ranker.index(unit(50, 0), first_stage=stage), unit(3, 1)
    given = torch.from_numpy(asked).to(kind)
    expected = index.search(given.float().numpy(), k=4)
    same(index.search(given, k=4), expected)
    one = index.search(given[1], k=4)
    assert one.ids.shape == one.scores.shape == one.cosine.shape == (4,)
    np.testing.assert_array_equal(one.ids, expected.ids[1])


def test_what_is_added_must_fit(reranker, tmp_path):
    ranker, stage = reranker
    index = ranker.index(unit(20, 0), ids=ids_of(20), metadata={"split": ["test"] * 20}, first_stage=stage)
    index = index.save(tmp_path / "index")
    before = (tmp_path / "index" / "index.json").read_bytes()
    for ids, metadata, said in (
        (["item 3", "item 90"], {"split": ["test"] * 2}, "'item 3' is in the index already"),
        (["a", "b"], None, r"metadata has the columns \[\], the index \['split'\]"),
        (["a", "b"], {"split": ["test"]}, "'split': 1 values for 2 candidates"),
        (["a"], {"split": ["test"] * 2}, "ids of shape .* for 2 embeddings"),
        (["a", "b"], {"split": [[1], [2]]}, "all of one kind"),
        ([1.5, 2.5], {"split": ["test"] * 2}, "another kind"),
    ):
        with pytest.raises(ValueError, match=said):
            index.add(unit(2, 4), ids, metadata=metadata)
    with pytest.raises(ValueError, match=r"'item 99' is not in the index\. Nothing was removed"):
        index.remove(["item 1", "item 99"])
    assert (tmp_path / "index" / "index.json").read_bytes() == before
    assert len(Index.load(tmp_path / "index")) == 20


def test_a_writer_that_died_left_nothing_that_counts(reranker, tmp_path, monkeypatch):
    ranker, stage = reranker
    index = ranker.index(unit(20, 0), first_stage=stage).save(tmp_path / "index")
    asked = unit(2, 1)
    expected = index.search(asked, k=5)
    monkeypatch.setattr(index_folder.Folder, "_tell", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        index.add(unit(5, 2))
    monkeypatch.undo()
    opened = Index.load(tmp_path / "index", verify=True)
    assert len(opened) == 20
    same(opened.search(asked, k=5), expected)
    opened.add(unit(5, 2))
    same(Index.load(tmp_path / "index", verify=True).search(asked, k=9), opened.search(asked, k=9))
    fresh = ranker.index(np.concatenate([unit(20, 0), unit(5, 2)]), first_stage=stage)
    same(opened.search(asked, k=9), fresh.search(asked, k=9))


def test_two_writers_dont_overwrite_each_other(tmp_path):
    ranker = Reranker(Stack(Cosine(), unit(5, 9)), {"direction": "t2i"}, CPU)
    index = ranker.index(unit(20, 0)).save(tmp_path / "index")
    other = Index.load(tmp_path / "index")
    index.add(unit(1, 2))
    with pytest.raises(UserError, match="another process changed it since it was opened here"):
        other.add(unit(1, 3))
    with pytest.raises(UserError, match="another process changed it"):
        other.remove([0])
    assert len(other.search(unit(1, 4)[0], k=30).ids) == 20, "who reads goes on"


def test_many_small_additions_are_one_file_in_the_end(tmp_path):
    ranker = Reranker(Stack(Cosine(), unit(5, 9)), {"direction": "t2i"}, CPU)
    index = ranker.index(unit(3, 0)).save(tmp_path / "index")
    for step in range(40):
        index.add(unit(1, step))
    files = list((tmp_path / "index").glob("items-*"))
    assert len(files) < 20
    again = Index.load(tmp_path / "index", verify=True)
    assert again.search(unit(1, 1)[0], k=50).ids.shape == (43,)
    assert sorted(again.search(unit(1, 1)[0], k=50).ids) == list(range(43))


SPOILT = {
    "embeddings.bin": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, .* are told"),
    "neighbours.bin": (lambda path: path.unlink(), "no bytes"),
    "index.json": (lambda path: path.write_text('{"format": 9}'), "format 9; this version reads format 1"),
    "ranker/config.json": (lambda path: path.unlink(), "no trained ranker"),
    "items-0.arrow": (lambda path: path.write_bytes(b"short"), "can't be read"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_missing_or_short_is_told(tmp_path, name):
    ranker = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": "t2i"}, CPU)
    ranker.index(unit(20, 0)).save(tmp_path / "index")
    spoil, said = SPOILT[name]
    spoil(tmp_path / "index" / name)
    with pytest.raises(UserError, match=said):
        Index.load(tmp_path / "index")


def test_a_flipped_bit_is_found_where_one_asks(tmp_path):
    ranker = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": "t2i"}, CPU)
    ranker.index(unit(20, 0)).save(tmp_path / "index")
    path = tmp_path / "index" / "embeddings.bin"
    spoilt = bytearray(path.read_bytes())
    spoilt[77] ^= 1
    path.write_bytes(bytes(spoilt))
    Index.load(tmp_path / "index")
    with pytest.raises(UserError, match=r"embeddings.bin: damaged: its CRC-32 is"):
        Index.load(tmp_path / "index", verify=True)


def test_what_can_not_be_kept_says_so(tmp_path, corpus):
    plain = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": "t2i"}, CPU)
    index = plain.index(unit(60, 0), first_stage=itq(unit(60, 3), 16))
    with pytest.raises(UserError, match="a space of your own can't be kept"):
        index.save(tmp_path / "index")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already, and is no index"):
        plain.index(unit(6, 0)).save(tmp_path / "photos")
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"mine"
    with pytest.raises(UserError, match="store='cloud': must be one of exact, lance"):
        plain.index(unit(6, 0)).save(tmp_path / "index", store="cloud")
    with pytest.raises(ValueError, match="metadata column 'id'"):
        plain.index(unit(6, 0), metadata={"id": range(6)})
    with pytest.raises(ValueError, match="all of one kind"):
        plain.index(unit(2, 0), ids=np.array([{1}, {2}], dtype=object))


def test_it_says_what_it_is(tmp_path):
    ranker = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": "t2i", "encoder": {"encoder": "ViT-B-32"}}, CPU)
    assert repr(ranker) == "Reranker(CSLS, text to image, embeddings 24 wide of ViT-B-32)"
    assert repr(ranker.index(unit(1_200, 0))) == "Index(1,200 candidates, CSLS, text to image)"


class TestRank:
    def test_it_is_a_search_of_these_alone(self, reranker):
        ranker, _ = reranker
        offered, asked = unit(20, 0), unit(3, 1)
        expected = ranker.index(offered).search(asked, k=20, depth=20)
        same(ranker.rank(asked, offered), expected)
        one = ranker.rank(asked[1], offered, ids=ids_of(20), k=4)
        assert one.ids.tolist() == [f"item {row}" for row in expected.ids[1, :4]]
        assert one.rows.tolist() == expected.ids[1, :4].tolist()
        assert len(ranker.rank(asked[1], offered, k=99).ids) == 20

    def test_each_query_may_have_its_own(self, reranker):
        ranker, _ = reranker
        offered, asked = unit(60, 0).reshape(3, 20, 24), unit(3, 1)
        names = np.arange(60).reshape(3, 20) + 500
        hits = ranker.rank(torch.from_numpy(asked), torch.from_numpy(offered), ids=names, k=5)
        for query in range(3):
            alone = ranker.rank(asked[query], offered[query], ids=names[query], k=5)
            np.testing.assert_array_equal(hits.ids[query], alone.ids)
            np.testing.assert_array_equal(hits.rows[query], alone.rows)
            np.testing.assert_allclose(hits.scores[query], alone.scores, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"candidates": unit(4, 0)[:, :5]}, r"embeddings have shape \(4, 5\)"),
            ({"candidates": unit(4, 0)[None, :, :]}, r"shape \(1, 4, 24\) for 2 queries"),
            ({"candidates": unit(1, 0)[0]}, r"shape \(24,\) for 2 queries"),
            ({"candidates": np.zeros((2, 24))}, "row 0 is zero or not finite"),
            ({"query": unit(2, 0)[:, :5]}, r"queries have shape \(2, 5\)"),
            ({"ids": [1]}, r"ids of shape \(1,\) for candidates \(4,\)"),
            ({"k": 0}, "k=0: must be an integer of 1 or more"),
            ({"candidates": np.empty((0, 24))}, "there is nothing to rank"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, given, said):
        ranker = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": "t2i"}, CPU)
        with pytest.raises(ValueError, match=said):
            ranker.rank(**{"query": unit(2, 1), "candidates": unit(4, 0), **given})

    def test_captions_and_images_go_straight_in(self, tmp_path):
        images, texts = {"a.jpg": 0, "b.jpg": 1, "c.jpg": 2}, {"two dogs": 3, "a boat": 4}
        known = unit(5, 3)

        class Encoder:
            def encode_texts(self, given):
                return known[[texts[text] for text in given]]

            def encode_images(self, given):
                return known[[images[os.path.basename(path)] for path in given]]

        for direction, asked, offered in (("t2i", list(texts), list(images)), ("i2t", list(images), list(texts))):
            ranker = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": direction}, CPU, Encoder())
            number = {**images, **texts}
            expected = ranker.rank(
                known[[number[name] for name in asked]], known[[number[name] for name in offered]], ids=offered
            )
            same(ranker.rank(asked, offered, ids=offered), expected)
            one = ranker.rank(asked[0], offered, ids=offered)
            assert one.ids.tolist() == expected.ids[0].tolist()
            index = ranker.index(known[[number[name] for name in offered]], ids=offered)
            np.testing.assert_array_equal(index.search(asked[0]).ids, one.ids)
            with pytest.raises(ValueError, match="number 1 is"):
                ranker.rank([asked[0], 7.5 if direction == "i2t" else " "], offered)

    def test_without_an_encoder_it_says_so(self):
        ranker = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": "t2i"}, CPU)
        with pytest.raises(UserError, match="whose encoder nobody told: give embeddings"):
            ranker.rank("two dogs", ["a.jpg"])


def test_a_manifest_of_another_hand_is_told(tmp_path):
    ranker = Reranker(Stack(CSLS(), unit(15, 9)), {"direction": "t2i"}, CPU)
    ranker.index(unit(20, 0)).save(tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    told = json.loads(path.read_text())
    for change in (
        {"tables": {}},
        {"tables": {**told["tables"], "embeddings": {"dtype": "object", "width": 24, "crc32": 0}}},
        {"rows": "many"},
        {"rows": 19},
        {"items": [{"file": "../../secret"}]},
        {"gone": {"file": "gone-9.npy", "count": 1, "crc32": 0}},
        {"first_stage": "mine"},
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(UserError, match="index"):
            Index.load(tmp_path / "index")


def test_the_ranker_of_an_index_is_whole(tmp_path, corpus):
    ranker = corpus_ranker(corpus)
    save(tmp_path / "run", ranker.stack, {"direction": "t2i"}, "# card")
    index = Reranker.from_pretrained(tmp_path / "run").index(unit(40, 0), first_stage="own").save(tmp_path / "index")
    (tmp_path / "run" / "config.json").unlink()
    same(Index.load(tmp_path / "index").search(unit(3, 1)), index.search(unit(3, 1)))
    assert pa.types.is_int64(index.store.columns(np.array([0]))["id"].type)
    assert dataclasses.is_dataclass(index)
