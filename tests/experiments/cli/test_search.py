"""The command `search`: a run and its set or an index, filters, and what it writes."""

import json

import numpy as np
import pytest

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.use.reranker import Reranker


@pytest.fixture(scope="module")
def runs(place, run, tmp_path_factory):
    """Return a folder with runs csls of both directions and an index of one."""
    folder = tmp_path_factory.mktemp("search")
    for direction in ("t2i", "i2t"):
        run("train", "--data", place / "data", "--direction", direction, "--scorer", "csls", "--out",
            folder / direction, "--no-tracking")  # fmt: skip
    data = EmbeddingSet.open(place / "data")
    Reranker.from_pretrained(folder / "t2i", "cpu").index(
        np.asarray(data.image_emb), ids=data.images["image_id"].tolist(),
        metadata={"path": image_files(data), "split": data.images["split"].tolist()},
    ).save(folder / "index")  # fmt: skip
    return folder


ASK = ("--text", "a red circle", "--device", "cpu")


def test_both_orders_are_written_as_json_and_as_a_page(place, runs, run, tmp_path, capsys):
    run("search", runs / "t2i", "--data", place / "data", *ASK, "-k", 4, "--json", tmp_path / "a.json", "--html",
        tmp_path / "a.html")  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    told = json.loads((tmp_path / "a.json").read_text())
    assert [line.split()[4] for line in lines] == [hit["id"] for hit in told["hits"]]
    assert [hit["rank"] for hit in told["hits"]] == [hit["clip_rank"] for hit in told["clip"]] == [1, 2, 3, 4]
    assert told["query"] == {"text": "a red circle"}
    assert set(told["hits"][0]) == {"rank", "clip_rank", "id", "path", "score", "cosine", "probability"}
    assert told["seconds"]["encode"] > 0
    assert (tmp_path / "a.html").read_text().count("data:image/jpeg") == 8


def test_an_image_finds_captions(place, runs, run, tmp_path, capsys):
    image = image_files(EmbeddingSet.open(place / "data"))[0]
    run("search", runs / "i2t", "--data", place / "data", "--image", image, "--device", "cpu", "-k", 2, "--html",
        tmp_path / "a.html", "--json", tmp_path / "a.json")  # fmt: skip
    assert json.loads((tmp_path / "a.json").read_text())["query"] == {"image": image}
    assert "The image that asks" in (tmp_path / "a.html").read_text()


def test_an_index_needs_no_set_and_is_filtered(runs, run, tmp_path, capsys):
    for values in (["test"], ["test", "val"]):
        filters = [part for value in values for part in ("--where", f"split={value}")]
        run("search", runs / "index", *ASK, "-k", 5, *filters)
        found = [line.split()[4] for line in capsys.readouterr().out.splitlines()]
        assert len(found) == 5
        assert {name.partition("-")[0] for name in found} <= set(values)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("index", "--where", "splt=test"), "the index has no such column; it has id, path, split"),
        (("index", "--where", "split"), "--where 'split': write it as column=value"),
        (("index", "--split", "test"), "--split: {runs}/index is an index, which can't take it. Use --where split=..."),
        (("index", "--first-stage", "own"), "--first-stage own: {runs}/index is an index"),
        (
            ("index", "--then", "remote"),
            "--then: {runs}/index is an index, which can't take it. Name a run",
        ),
        (("t2i",), "{runs}/t2i: is a run, which has no corpus of its own. Name an embedding set by --data."),
        (("i2t",), "was trained for i2t, it is asked with images. Name a run of the other direction."),
    ],
)
def test_what_cannot_be_searched_is_said(runs, run, capsys, arguments, said):
    name, *rest = arguments
    run("search", runs / name, *ASK, *rest, code=2)
    assert said.format(runs=runs) in capsys.readouterr().err


def test_an_image_of_the_wrong_direction_is_said(runs, run, capsys):
    run("search", runs / "index", "--image", "a.png", "--device", "cpu", code=2)
    assert "was trained for t2i, it is asked with texts" in capsys.readouterr().err
