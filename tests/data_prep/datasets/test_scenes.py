import hashlib

import numpy as np
import pytest
from PIL import Image

from data_prep.datasets import load
from data_prep.datasets.scenes import COUNTS, _generator
from rank_xmodal.errors import UserError

FEW = {"train": 6, "val": 2, "test": 3}


def digest(corpus):
    return hashlib.sha256(b"".join(path.read_bytes() for path in corpus.paths())).hexdigest()


def test_the_demo_corpus_is_2000_500_1000():
    assert COUNTS == {"train": 2_000, "val": 500, "test": 1_000}


def test_counts_captions_and_files(tmp_path, said):
    corpus = load("scenes", tmp_path, counts=FEW, say=said)
    assert corpus.images["split"].value_counts().to_dict() == FEW
    assert corpus.relevance.groupby("image").size().tolist() == [5] * 11
    assert (corpus.images["split"].to_numpy()[corpus.relevance["image"]] == corpus.texts["split"]).all()
    assert corpus.texts["text_id"].is_unique
    assert Image.open(corpus.paths()[0]).size == (64, 64)


def test_the_same_seed_gives_the_same_bytes(tmp_path, said):
    a, b, c = (
        load("scenes", tmp_path / name, counts=FEW, seed=seed, say=said)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert digest(a) == digest(b) != digest(c)
    assert a.texts.equals(b.texts)
    assert not a.texts.equals(c.texts)


def test_the_corpus_of_seed_0_stays_what_it_is(tmp_path, said):
    # Published numbers of the demo rest on it.
    corpus = load("scenes", tmp_path, counts=FEW, say=said)
    assert hashlib.sha256("\n".join(corpus.texts["text"]).encode()).hexdigest()[:16] == "4ec600e448f33dc0"
    # Means and not a hash: another Pillow may round edges otherwise.
    greys = [np.asarray(Image.open(path)).mean() for path in corpus.paths()[:3]]
    assert greys == pytest.approx([195.59, 183.93, 205.5], abs=0.5)


def test_other_counts_leave_the_first_scenes_as_they_are(tmp_path, said):
    few = load("scenes", tmp_path / "a", counts=FEW, say=said)
    more = load("scenes", tmp_path / "b", counts={"train": 7, "val": 0, "test": 4}, say=said)
    for split in ("train", "test"):
        a = few.texts[few.texts["split"] == split]["text"].tolist()
        b = more.texts[more.texts["split"] == split]["text"].tolist()
        assert b[: len(a)] == a
        assert len(b) > len(a)


def test_no_scene_in_two_splits(tmp_path, said):
    corpus = load("scenes", tmp_path, counts={"train": 40, "val": 40, "test": 40}, say=said)
    assert len({path.read_bytes() for path in corpus.paths()}) == 120


@pytest.mark.parametrize("seed", [0, 20_000_000, 20_000_001])
def test_pretraining_draws_from_other_generators(seed):
    from data_prep.scenes.pretrain import _SEED

    theirs = [np.random.default_rng(s).integers(0, 2**63, 8).tolist() for s in (_SEED, _SEED + 1)]
    for split in ("train", "val", "test"):
        for use in (1, 2, 3):
            assert _generator(seed, split, 0, use).integers(0, 2**63, 8).tolist() not in theirs


def test_a_complete_corpus_is_reused_and_an_incomplete_one_mended(tmp_path, said):
    first = load("scenes", tmp_path, counts=FEW, say=said)
    stamp = first.paths()[0].stat().st_mtime_ns
    again = load("scenes", tmp_path, counts=FEW, say=said)
    assert first.paths()[0].stat().st_mtime_ns == stamp
    assert again.texts.equals(first.texts)
    assert "already in" in said
    before = digest(first)
    first.paths()[1].unlink()
    assert digest(load("scenes", tmp_path, counts=FEW, say=said)) == before


def test_an_interrupted_run_leaves_nothing(tmp_path, said, monkeypatch):
    from data_prep.scenes import render

    real, calls = render.render, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(render, "render", stop)
    with pytest.raises(KeyboardInterrupt):
        load("scenes", tmp_path, counts=FEW, say=said)
    assert list(tmp_path.iterdir()) == []


def test_other_settings_draw_again(tmp_path, said):
    a = digest(load("scenes", tmp_path, counts=FEW, say=said))
    assert digest(load("scenes", tmp_path, counts=FEW, seed=1, say=said)) != a


def test_a_folder_of_yours_is_left_alone(tmp_path, said):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"was not made by scenes.*--root"):
        load("scenes", tmp_path, counts=FEW, say=said)
    assert (tmp_path / "images" / "holiday.jpg").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"counts": {"dev": 3}}, "'dev' is no split"),
        ({"counts": {"train": -3}}, "train=-3"),
        ({"counts": {"train": 0, "val": 0, "test": 0}}, "every split has 0"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        load("scenes", tmp_path, **options)


def test_classes_are_what_is_to_be_seen(tmp_path, said):
    from data_prep.datasets.scenes import _generator
    from data_prep.scenes.world import draw_scene

    corpus = load("scenes", tmp_path, counts=FEW, say=said)
    for name, split, found in zip(*(corpus.images[c] for c in ("image_id", "split", "labels")), strict=True):
        scene = draw_scene(_generator(0, split, int(name.split("-")[1]), 1))
        assert set(found.split("|")) == {f"{shape.colour} {shape.shape}" for shape in scene.shapes}
    owner = corpus.relevance["image"].to_numpy()
    assert corpus.texts["labels"].tolist() == corpus.images["labels"].to_numpy()[owner].tolist()
