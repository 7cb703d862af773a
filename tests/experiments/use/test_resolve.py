"""Resolving a split: the command through small runs, its CSV and figures, and what it refuses."""

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.run.train import run_training
from experiments.use.resolve import resolve, write_matches
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.resolution import RULES
from rank_xmodal.use.reranker import Reranker

SPLITS = ["train"] * 80 + ["val"] * 40 + ["test"] * 40
NASTY = '=HYPERLINK("http://x"), or\nnot; "quoted" déjà vu, \x1b[31m'
RUNS = {
    "ranker": {"scorer": "context_aware", "epochs": 1},
    "calibrated": {"scorer": "context_aware", "epochs": 1, "calibrate": True},
    "csls": {"scorer": "csls"},
}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory, random_set):
    """Return a folder with the sets `data` and `several` (three captions an image), and runs on the first."""
    folder = tmp_path_factory.mktemp("resolve")
    made = random_set(SPLITS, noise=0.6)
    texts = made.texts.assign(
        text=[NASTY if split == "test" else text for text, split in made.texts[["text", "split"]].values]
    )
    data = replace(made, texts=texts, meta={"name": "data"}).write(folder / "data")
    count, rng = len(SPLITS), np.random.default_rng(1)
    text = np.repeat(np.asarray(data.image_emb, dtype=float), 3, axis=0) + 0.1 * rng.normal(size=(3 * count, 8))
    rows = range(3 * count)
    replace(
        made,
        text_emb=(text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float16),
        texts=pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": "c", "split": np.repeat(SPLITS, 3)}),
        relevance=pd.DataFrame({"image": np.repeat(range(count), 3), "text": rows, "grade": 1}),
        meta={"name": "several"},
    ).write(folder / "several")
    for name, settings in RUNS.items():
        for direction in ("t2i", "i2t"):
            parsed = scorers.parse({**settings, "device": "cpu"})
            run_training(data, direction, parsed, folder / f"{name}-{direction}", tracking=None, say=quiet)
    return folder


def opened(place, name="data"):
    return EmbeddingSet.open(place / name)


def read(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("name", RUNS)
def test_the_command_writes_pairs_and_figures(place, run, tmp_path, capsys, name, direction):
    run("resolve", place / f"{name}-{direction}", "--data", place / "data", "--out", tmp_path / "m.csv", "--json",
        tmp_path / "m.json", "--device", "cpu")  # fmt: skip
    printed, report = capsys.readouterr(), json.loads((tmp_path / "m.json").read_text())
    assert report["rows"] == ["clip", "ranker"]
    assert (report["direction"], report["split"], report["queries"], report["gallery"]) == (direction, "test", 40, 40)
    assert report["blocking"]["pairs_completeness"] == report["one_to_one_recall"] == 1.0
    assert report["calibrated_by"] == ("run" if name == "calibrated" else "val")
    best = {rule: report["ranker"][rule]["val_f1"] for rule in RULES}
    assert best[report["written"]] == max(best.values())
    rows, one = read(tmp_path / "m.csv"), report["ranker"][report["written"]]
    assert list(rows[0]) == ["image_id", "text_id", "probability", "text"]
    (tn, fp), (fn, tp) = one["confusion"]
    assert tp == sum(row["image_id"][1:] == row["text_id"][1:] for row in rows) > 20
    assert (tp + fp, tp + fn, tn + fp + fn + tp) == (len(rows), 40, 1600)
    if report["written"] == "assignment":
        assert len({row["image_id"] for row in rows}) == len({row["text_id"] for row in rows}) == len(rows)
    known = [float(row["probability"]) for row in rows]
    assert known == sorted(known, reverse=True)
    assert min(known) >= one["threshold"] - 1e-6
    assert {row["text"] for row in rows} == {NASTY}, "user text comes back as it was"
    assert ("the run was trained on it, too" in printed.err) == report["trained_on_val"]
    assert report["trained_on_val"] == (name == "ranker"), "a small set's ranker is trained again, with val"
    lines = printed.out.splitlines()
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        f"{row}, {rule}" for row in ("CLIP", "ranker") for rule in RULES
    ]
    assert lines[-1].startswith(f"wrote {tmp_path / 'm.csv'}: {len(rows)} pairs by the {report['written']}")


def test_probabilities_are_the_runs_own_where_it_has_some(place):
    data, folder = opened(place), place / "calibrated-t2i"
    found = resolve(folder, data, device="cpu", say=quiet)
    index = Reranker.from_pretrained(folder, "cpu").index(
        np.asarray(data.image_emb[120:]), ids=data.images["image_id"][120:].to_numpy()
    )
    hits = index.search(np.asarray(data.text_emb[120:]), k=40)
    for _, row in found.matches.iterrows():
        query = int(row["text_id"][1:]) - 120
        at = hits.ids[query].tolist().index(row["image_id"])
        assert row["probability"] == pytest.approx(hits.probability[query, at], abs=1e-4)


def test_a_calibrated_run_has_not_seen_val_and_says_nothing(place):
    said = []
    report = resolve(place / "calibrated-t2i", opened(place), device="cpu", say=said.append).report
    assert (report["trained_on_val"], said) == (False, [])


def test_thresholds_depend_on_val_alone(place):
    """Other pairs of the test split give other figures, and no other threshold."""
    data = opened(place)
    fewer = replace(data, images=data.images.assign(split=[*SPLITS[:130], *["out"] * 30]),
                    texts=data.texts.assign(split=[*SPLITS[:130], *["out"] * 30]))  # fmt: skip
    one, other = (resolve(place / "csls-t2i", part, device="cpu", say=quiet).report for part in (data, fewer))
    for row in one["rows"]:
        for rule in RULES:
            assert one[row][rule]["threshold"] == other[row][rule]["threshold"]
    assert (one["gallery"], other["gallery"]) == (40, 10)


def test_several_captions_an_image_leave_one_to_one_a_third(place, run, capsys, tmp_path):
    run("resolve", place / "csls-t2i", "--data", place / "several", "--device", "cpu", "--json", tmp_path / "m.json")
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["one_to_one_recall"] == pytest.approx(1 / 3)
    assert all(report[row]["assignment"]["recall"] <= 1 / 3 for row in report["rows"])
    assert report["written"] == "threshold", "it finds the others, too"
    assert "a recall of 33.33 % at most" in capsys.readouterr().out


def test_the_split_may_be_train(place):
    said = []
    assert resolve(place / "csls-t2i", opened(place), "train", device="cpu", say=said.append).report["queries"] == 80
    assert "train: the ranker was trained on these queries" in said[0]


def test_no_match_is_a_header_alone(tmp_path):
    none = pd.DataFrame({name: [] for name in ("image_id", "text_id", "probability", "text")})
    write_matches(tmp_path / "m.csv", none)
    assert (tmp_path / "m.csv").read_text().splitlines() == ["image_id,text_id,probability,text"]


def resplit(data, splits):
    return replace(data, images=data.images.assign(split=splits), texts=data.texts.assign(split=splits))


@pytest.mark.parametrize(
    ("splits", "split", "said"),
    [
        (SPLITS, "val", "--split val: thresholds are chosen on val.*Use --split test"),
        (["train"] * 120 + ["test"] * 40, "test", "data: thresholds are chosen on validation pairs.*the split val"),
        (["train"] * 120 + ["val"] * 40, "test", "split 'test' is empty"),
        (["train"] * 100 + ["val"] * 10 + ["test"] * 50, "test", "split val has 10 true and 90 other.*Give it more"),
    ],
)
def test_what_cannot_be_resolved_is_refused(place, splits, split, said):
    with pytest.raises(UserError, match=said):
        resolve(place / "csls-t2i", resplit(opened(place), splits), split, device="cpu", say=quiet)


def test_a_split_whose_images_and_captions_have_nothing_in_common_is_refused(place):
    data = opened(place)
    apart = ["train"] * 60 + ["val"] * 40 + ["test"] * 30 + ["out"] * 30
    texts = ["train"] * 60 + ["val"] * 40 + ["out"] * 30 + ["test"] * 30
    cut = replace(data, images=data.images.assign(split=apart), texts=data.texts.assign(split=texts))
    with pytest.raises(UserError, match="no image and caption of split 'test' belong together"):
        resolve(place / "csls-t2i", cut, device="cpu", say=quiet)


def test_scores_that_are_not_finite_are_refused(place, monkeypatch):
    def broken(rows, data, lists, device):
        return {name: torch.full(lists.labels.shape, torch.nan) for name in rows}

    monkeypatch.setattr("experiments.use.resolve.score_rows", broken)
    with pytest.raises(UserError, match="scores that are not finite"):
        resolve(place / "csls-t2i", opened(place), device="cpu", say=quiet)


def test_what_a_user_can_mend_ends_with_2_and_nothing_written(place, run, tmp_path, capsys):
    out = ("--out", tmp_path / "m.csv", "--json", tmp_path / "m.json", "--device", "cpu")
    run("resolve", place / "none", "--data", place / "data", *out, code=2)
    run("resolve", place / "csls-t2i", "--data", place / "data", "--split", "val", *out, code=2)
    run("resolve", place / "csls-t2i", "--data", place / "none", *out, code=2)
    assert capsys.readouterr().err.count("rank-xmodal: ") == 3
    assert not list(tmp_path.iterdir())
