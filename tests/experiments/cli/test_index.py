"""An index by the command line: made, grown, shrunk, searched as the set itself, in both stores and directions."""

import shutil

import numpy as np
import pytest

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.use.index import Index
from rank_xmodal.use.reranker import Reranker


@pytest.fixture(scope="module")
def runs(place, tmp_path_factory):
    from experiments.run.train import run_training
    from rank_xmodal import scorers

    folder, data = tmp_path_factory.mktemp("runs"), EmbeddingSet.open(place / "data")
    for direction in ("t2i", "i2t"):
        settings = scorers.parse({"scorer": "csls", "on": "vsepp", "device": "cpu"})
        run_training(data, direction, settings, folder / direction, tracking=None, say=lambda line: None)
    return folder


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize(("store", "stage"), [("exact", "clip"), ("exact", "own"), ("lance", "clip")])
def test_an_index_finds_what_the_set_finds(run, place, runs, tmp_path, capsys, direction, store, stage):
    data, out = EmbeddingSet.open(place / "data"), tmp_path / "index"
    run("index", runs / direction, "--data", data.root, "--out", out, "--split", "test", "--store", store,
        "--first-stage", stage)  # fmt: skip
    told = capsys.readouterr().out
    rows = data.candidate_rows(direction, "test")
    assert f"Index({len(rows):,} candidates" in told
    asked = data.queries(direction)[data.query_rows(direction, "test")[:9]]
    side, name = (data.images, "image_id") if direction == "t2i" else (data.texts, "text_id")
    reranker = Reranker.from_pretrained(runs / direction, "cpu")
    expected = reranker.index(
        np.asarray(data.candidates(direction)[rows]), ids=side[name].iloc[rows], first_stage=stage
    ).search(asked, k=5)
    hits = Index.load(out).search(asked, k=5)
    np.testing.assert_array_equal(hits.ids, expected.ids)
    np.testing.assert_allclose(hits.scores, expected.scores, rtol=1e-4, atol=1e-5)
    run("add", out, "--data", data.root, "--split", "val")
    run("add", out, "--data", data.root)  # the rest
    run("add", out, "--data", data.root)  # nothing
    assert "0 added" in capsys.readouterr().out.splitlines()[-1]
    index = Index.load(out)
    assert len(index) == len(data.candidates(direction))
    columns = index.store.columns(np.array([0, len(index) - 1]))
    assert columns.column_names == ["id", "split", "path" if direction == "t2i" else "text", "labels"]
    assert columns["split"].to_pylist() == ["test", "train"]
    np.testing.assert_array_equal(index.search(asked, k=5, where={"split": "test"}).ids, expected.ids)
    (tmp_path / "ids").write_text(f"{columns['id'][0].as_py()}\n\n")
    run("remove", out, columns["id"][1].as_py(), "--from", tmp_path / "ids")
    assert "2 removed" in capsys.readouterr().out
    run("remove", out, columns["id"][1].as_py(), "nobody")
    told = capsys.readouterr()
    assert "0 removed" in told.out
    assert "2 of the ids are not in the index" in told.err
    assert len(Index.load(out, verify=True)) == len(index) - 2


def test_a_training_item_is_no_hub_by_its_own_captions(run, place, runs, tmp_path):
    data, out = EmbeddingSet.open(place / "data"), tmp_path / "index"
    run("index", runs / "t2i", "--data", data.root, "--out", out, "--split", "val")
    run("add", out, "--data", data.root, "--split", "train")
    run("index", runs / "t2i", "--data", data.root, "--out", tmp_path / "whole")
    asked = data.queries("t2i")[data.query_rows("t2i", "test")[:9]]
    some = Index.load(tmp_path / "whole").search(asked, k=5, where={"split": ["train", "val"]})
    np.testing.assert_array_equal(Index.load(out).search(asked, k=5).ids, some.ids)


def test_what_can_not_be_done_is_said(run, place, runs, tmp_path, capsys):
    data, out = place / "data", tmp_path / "index"
    run("index", runs / "t2i", "--data", data, "--out", out, "--split", "val")
    for arguments, said in (
        (
            ("index", runs / "t2i", "--data", data, "--out", out, "--split", "test"),
            "is there already. Name another folder",
        ),
        (("index", runs / "t2i", "--data", data, "--out", runs / "t2i", "--overwrite"), "is no index"),
        (("remove", out), "name ids"),
        (("add", runs / "t2i", "--data", data), "holds no index"),
    ):
        run(*arguments, code=2)
        assert said in capsys.readouterr().err
    before = (out / "index.json").read_bytes()
    capsys.readouterr()
    run("index", runs / "t2i", "--data", data, "--out", out, "--split", "val")
    assert "already holds this index" in capsys.readouterr().err
    assert (out / "index.json").read_bytes() == before
    run("index", runs / "t2i", "--data", data, "--out", out, "--split", "test", "--overwrite")
    assert (out / "index.json").read_bytes() != before


def test_photos_alone_are_indexed_and_found_by_a_caption(run, place, runs, tmp_path, capsys):
    """As a new user has them: a folder, no captions, a ranker that was trained elsewhere."""
    data = EmbeddingSet.open(place / "data")
    rows = data.candidate_rows("t2i", "test")[:30]
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    for row, file in zip(rows, np.array(image_files(data))[rows], strict=True):
        shutil.copy(file, tmp_path / "photos" / "2024" / f"{row}.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    encoder = ("--model", "scenes-clip", "--pretrained", "scenes")
    run("embed", "--dataset", "folder", "--root", tmp_path / "photos", *encoder, "--out", tmp_path / "set",
        "--skip-broken")  # fmt: skip
    run("index", runs / "t2i", "--data", tmp_path / "set", "--out", tmp_path / "index")
    index = Index.load(tmp_path / "index")
    queries = data.query_rows("t2i", "test")[:150]
    owner = data.relevance["image"].to_numpy()[queries]
    found = index.search(data.texts["text"].iloc[queries].tolist(), k=1).ids[:, 0]
    assert np.mean(found == [f"2024/{row}.png" for row in owner]) > 0.5, "by the caption itself, encoded here"
    for verb, *arguments in (
        ("train", "--direction", "t2i", "--out", tmp_path / "run"),
        ("mine", "--direction", "t2i"),
    ):
        data_of = ("--data", tmp_path / "set") if verb == "train" else (tmp_path / "set",)
        run(verb, *data_of, *arguments, code=2)
        assert "holds images without captions" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ids_that_are_numbers_are_removed_as_they_are_written(run, place, runs, tmp_path, capsys):
    data = EmbeddingSet.open(place / "data")
    index = Reranker.from_pretrained(runs / "t2i", "cpu").index(np.asarray(data.candidates("t2i")[:20]))
    index.save(tmp_path / "index")
    (tmp_path / "ids").write_bytes("\ufeff3\n4\nnine\n".encode())  # as Windows writes it
    run("remove", tmp_path / "index", "7", "2.5", "--from", tmp_path / "ids")
    told = capsys.readouterr()
    assert "3 removed" in told.out
    assert "2 of the ids are not in the index, '2.5' first" in told.err
    left = Index.load(tmp_path / "index").search(data.queries("t2i")[0], k=20).ids
    assert sorted(left) == [row for row in range(20) if row not in (3, 4, 7)]
    (tmp_path / "ids").write_bytes(b"caf\xe9\n")
    run("remove", tmp_path / "index", "--from", tmp_path / "ids", code=2)
    assert "ids: is no UTF-8. Save it as UTF-8" in capsys.readouterr().err


def test_a_manifest_that_is_none_is_no_index_of_this_set(run, place, runs, tmp_path, capsys):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text("[]")
    run("index", runs / "t2i", "--data", place / "data", "--out", tmp_path / "index", code=2)
    assert "is there already. Name another folder" in capsys.readouterr().err
