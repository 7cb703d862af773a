"""Which queries are shown, and how their lists are."""

import base64
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.images import files_digest
from experiments.report.gallery import CANDIDATES, EXAMPLES, example, most_moved, own_files, thumbnails
from experiments.results.result import Result
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.evaluation.judging import judge
from rank_xmodal.retrieval.gallery import RankedGallery


def result(labels, clip, ranker, direction="t2i", below=None):
    """Return a result over lists of the candidates 0, 1, 2 ... for the queries 0, 1, 2 ..."""
    labels = np.array(labels, dtype=np.int8)
    candidates = np.where(labels < 0, -1, np.arange(labels.shape[1])).astype(np.int32)
    lists = CandidateLists(
        np.arange(len(labels), dtype=np.int32), candidates, labels, np.array(clip, dtype=np.float32),
        {"direction": direction, "split": "test"},
    )  # fmt: skip
    missed = torch.full((len(labels),), torch.inf) if below is None else torch.tensor(below)
    gallery = RankedGallery(lists, torch.ones(len(labels), dtype=torch.int64), missed.double(), 1_000)
    scores = {"clip": torch.tensor(clip).float(), "ranker": torch.tensor(ranker).float()}
    return Result(gallery, scores, *judge(scores, gallery))


def test_the_queries_that_moved_most_come_first_and_those_that_stayed_not_at_all():
    clip = [[4.0, 3, 2, 1]] * 5
    labels = [[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    ranker = [[4.0, 3, 2, 5], [3.0, 4, 2, 1], [1.0, 4, 3, 2], [4.0, 3, 2, 1], [3.0, 4, 2, 1]]
    gains, losses = most_moved(result(labels, clip, ranker))
    assert gains == [0, 1], "from 4 to 1, from 2 to 1"
    assert losses == [2, 4], "from 1 to 4, from 1 to 2"


def test_no_more_queries_than_a_page_shows():
    number = EXAMPLES + 5
    gains, losses = most_moved(result([[0, 1]] * number, [[2.0, 1]] * number, [[1.0, 2]] * number))
    assert gains == list(range(EXAMPLES)), "of equals the first"
    assert losses == []


def test_lists_are_in_each_rows_order_with_the_places_that_candidates_rose(random_set):
    found = result([[0, 0, 1, 0, -1, 0, 0]], [[7.0, 6, 5, 4, 9, 3, 2]], [[1.0, 6, 9, 6, 99, 8, 2]])
    query, (before, after) = example(random_set(["test"] * 9), found, 0, lambda path: None)
    assert query.id == "t0"
    assert (before.row, before.rank, after.row, after.rank) == ("clip", 3, "ranker", 1)
    assert [c.item.id for c in before.candidates] == ["i0", "i1", "i2", "i3", "i5"], "padding is left out"
    assert {c.moved for c in before.candidates} == {None}
    assert [(c.item.id, bool(c.relevant), c.moved) for c in after.candidates] == [
        ("i2", True, 2), ("i5", False, 3), ("i1", False, -1), ("i3", False, 0), ("i6", False, 1)
    ]  # fmt: skip
    assert len(after.candidates) == CANDIDATES


def test_of_equal_scores_what_is_relevant_comes_last_as_the_metrics_have_it(random_set):
    found = result([[1, 0, 0]], [[3.0, 2, 1]], [[0.0, 0, 0]])
    _, (_, after) = example(random_set(["test"] * 3), found, 0, lambda path: None)
    assert [c.item.id for c in after.candidates] == ["i1", "i2", "i0"]
    assert after.rank == 3


def test_a_list_without_anything_relevant_keeps_its_rank_in_the_gallery(random_set):
    found = result([[0, 0]], [[2.0, 1]], [[1.0, 2]], below=[600])
    assert most_moved(found) == ([], [])
    _, lists = example(random_set(["test"] * 2), found, 0, lambda path: None)
    assert [one.rank for one in lists] == [600, 600]


def test_image_to_text_asks_with_a_picture_and_answers_with_captions(random_set):
    data = random_set(["test"] * 3)
    data.images["path"] = ["a", "b", "c"]
    data.texts["text"] = ["one " * 200, "two\n\tlines", "three"]
    found = result([[0, 1, 0]], [[3.0, 2, 1]], [[3.0, 2, 1]], "i2t")
    query, (before, _) = example(data, found, 0, lambda path: (f"data:{path}", 3, 2))
    assert (query.id, query.picture) == ("i0", ("data:a", 3, 2))
    assert len(query.text) <= 120, "said of the picture, for who can't see it"
    texts = [c.item.text for c in before.candidates]
    assert (len(texts[0]) <= 280, texts[0][-1], texts[1:]) == (True, "…", ["two lines", "three"])
    assert {c.item.picture for c in before.candidates} == {None}


@pytest.mark.parametrize(("size", "shown"), [((300, 200), (60, 40)), ((20, 10), (20, 10))])
def test_a_thumbnail_is_a_small_jpeg_within_the_page(tmp_path, size, shown):
    Image.new("RGBA", size, (200, 20, 20, 255)).save(tmp_path / "a.png")
    uri, width, height = thumbnails(60, 80, Path)(str(tmp_path / "a.png"))
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (width, height) == shown


def test_what_cannot_be_shown_is_none(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    picture = thumbnails(60, 80, Path)
    assert [picture(path) for path in ("", str(tmp_path / "none.png"), str(tmp_path / "broken.png"))] == [None] * 3


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_pipe_is_not_waited_for_and_a_huge_picture_not_decoded(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    Image.new("1", (10_000, 9_000)).save(tmp_path / "huge.png")
    picture = thumbnails(60, 80, Path)
    assert [picture(str(tmp_path / name)) for name in ("pipe.png", "huge.png")] == [None] * 2


@pytest.fixture
def shelves(random_set, tmp_path):
    """Return a set in a folder of its own, its pictures being elsewhere but for those of the rows 1 and 2."""
    own, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for folder in (own, elsewhere):
        folder.mkdir()
    (elsewhere / "a.png").write_bytes(b"some bytes")
    (own / "b.png").write_bytes(b"others")
    (own / "link.png").symlink_to(elsewhere / "a.png")
    data = random_set(["test"] * 7 + ["train"])
    data.images["path"] = [
        str(elsewhere / "a.png"), str(own / "b.png"), "b.png", "../elsewhere/a.png", "link.png", "\0", "x" * 5_000, "",
    ]  # fmt: skip
    return replace(data, root=own)


def test_of_a_set_that_anybody_made_only_what_lies_in_its_folder_is_shown(shelves):
    guess = {"test": "0" * 64, "train": files_digest([""])}
    for digests in (None, {}, guess, ["test"], "test"):
        file_of = own_files(replace(shelves, meta={"image_files": digests}), "test")
        found = [file_of(path) for path in shelves.images["path"][:7]]
        inside = shelves.root.resolve() / "b.png"
        assert found[1:3] == [inside, inside]
        assert [found[0], *found[3:6]] == [None] * 4
        assert found[6] is None or not os.path.isfile(found[6])
    assert own_files(replace(shelves, root=None), "test")(str(shelves.root / "b.png")) is None


def test_what_embed_read_is_shown_wherever_it_lies_until_it_changes(shelves):
    outside = shelves.images["path"][0]
    data = replace(shelves, meta={"image_files": {"test": files_digest(shelves.images["path"][:7])}})
    assert own_files(data, "test")(outside) == Path(outside)
    assert own_files(data, "train")(outside) is None, "a digest speaks for its own split"
    Path(outside).write_bytes(b"another picture")
    assert own_files(data, "test")(outside) is None
