"""Pascal Sentences in miniature: photos and sentences side by side, or in trees of their own."""

import pytest

from data_prep.datasets import load
from data_prep.embed import embed
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError


def make(root, picture, photos="", sentences="", count=4):
    for label in ("cat", "bus"):
        for number in range(count):
            for folder, name in ((photos, f"2008_00{number}.jpg"), (sentences, f"2008_00{number}.txt")):
                (root / folder / label).mkdir(parents=True, exist_ok=True)
                path = root / folder / label / name
                if name.endswith(".jpg"):
                    picture(number).save(path)
                else:
                    path.write_text("".join(f"A {label} of  the {k}th kind. \n" for k in range(5)) + "\n")


@pytest.mark.parametrize(("photos", "sentences"), [("", ""), ("dataset", "sentence"), ("images", "images")])
def test_classes_are_the_folders(tmp_path, picture, said, photos, sentences):
    make(tmp_path / "ps", picture, photos, sentences)
    corpus = load("pascal_sentences", tmp_path / "ps", say=said)
    assert corpus.name == "pascal_sentences"
    assert corpus.images["image_id"].tolist()[:2] == ["bus/2008_000.jpg", "bus/2008_001.jpg"]
    assert corpus.images["labels"].tolist() == ["bus"] * 4 + ["cat"] * 4
    assert sorted(corpus.images["split"]) == ["test", *["train"] * 6, "val"]
    assert corpus.texts["text"].tolist()[:2] == ["A bus of the 0th kind.", "A bus of the 1th kind."]
    assert corpus.texts["labels"].tolist() == ["bus"] * 20 + ["cat"] * 20
    assert corpus.texts["split"].tolist()[::5] == corpus.images["split"].tolist()
    assert corpus.relevance["image"].tolist() == [row for row in range(8) for _ in range(5)]
    assert all(path.is_file() for path in corpus.paths())
    assert "8 images dealt out 80/10/10 (seed 0)" in said
    other = load("pascal_sentences", tmp_path / "ps", seed=5, say=said)
    assert other.images["split"].tolist() != corpus.images["split"].tolist()


def test_it_is_embedded_with_its_labels(tmp_path, picture, said, encoder):
    make(tmp_path / "ps", picture)
    corpus = load("pascal_sentences", tmp_path / "ps", say=said)
    embed(corpus, encoder, tmp_path / "set", say=said)
    made = EmbeddingSet.open(tmp_path / "set")
    assert made.labelled
    assert made.aligned
    assert made.classes == ["bus", "cat"]


def test_a_photo_without_words_is_left_out(tmp_path, picture, said):
    make(tmp_path / "ps", picture)
    (tmp_path / "ps" / "bus" / "2008_001.txt").write_text(" \n")
    assert len(load("pascal_sentences", tmp_path / "ps", say=said).images) == 7
    assert "of 8 items left out: 1 without words" in said


def test_bytes_that_are_no_utf8_are_read_as_latin1(tmp_path, picture, said):
    make(tmp_path / "ps", picture)
    (tmp_path / "ps" / "bus" / "2008_000.txt").write_bytes("A café\0.\r\nA bus.\r\n".encode("latin-1"))
    corpus = load("pascal_sentences", tmp_path / "ps", say=said)
    assert corpus.texts["text"].tolist()[:2] == ["A café .", "A bus."]


def test_what_is_missing_is_named(tmp_path, picture):
    with pytest.raises(UserError, match=r"gone: no such folder"):
        load("pascal_sentences", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no photos \(looked for CLASS/NAME\.jpg"):
        load("pascal_sentences", tmp_path / "empty")
    make(tmp_path / "ps", picture)
    (tmp_path / "ps" / "cat" / "2008_002.txt").unlink()
    with pytest.raises(UserError, match=r"cat.2008_002\.txt: no such file"):
        load("pascal_sentences", tmp_path / "ps")
    (tmp_path / "ps" / "bus" / "2008_000.txt").unlink()
    with pytest.raises(UserError, match=r"2008_000\.jpg: its sentences are not there"):
        load("pascal_sentences", tmp_path / "ps")


def test_a_class_that_labels_cannot_hold_is_refused(tmp_path, picture):
    make(tmp_path / "ps", picture)
    (tmp_path / "ps" / "bus").rename(tmp_path / "ps" / "bus|car")
    with pytest.raises(UserError, match=r"the class 'bus\|car' needs another name"):
        load("pascal_sentences", tmp_path / "ps")
