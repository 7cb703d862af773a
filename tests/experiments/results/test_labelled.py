"""A labelled set through the command line: import, mine, train, evaluate; scikit-learn over raw cosines judges."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve

from experiments.results import labelled
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.evaluation import class_level
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.stack import rows_of, score_rows
from rank_xmodal.use.reranker import Reranker

CLASSES = ("art", "biology", "music", "sport")
SPLITS = np.repeat(["train", "val", "test"], [160, 40, 60])
ROWS = ("clip", "csls", "ranker")
QUICK = ("--set", "epochs=6", "--set", "batch_size=16", "--set", "lr=3e-3", "--set", "device=cpu")


def write_table(path, labels=None, splits=SPLITS):
    """One caption an image; without labels, no such column."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["caption_id", "image_id", "caption", "split", *(["labels"] if labels is not None else [])])
        for row, split in enumerate(splits):
            writer.writerow([f"c{row}", row, f"caption {row}", split, *([labels[row]] if labels is not None else [])])


def import_set(run, place, name, labels, splits=SPLITS):
    write_table(place / f"{name}.csv", labels, splits)
    run("import", "--images", place / "A.npy", "--texts", place / "B.npy", "--captions", place / f"{name}.csv",
        "--out", place / name)  # fmt: skip


@pytest.fixture(scope="module")
def place(run, tmp_path_factory):
    """A folder with A.npy, B.npy, the set `data` of one class an item, lists of it, and a run in each direction."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    own = rng.integers(0, len(CLASSES), len(SPLITS))
    image = rng.normal(size=(len(CLASSES), 16))[own] + rng.normal(size=(len(SPLITS), 16))
    text = image + rng.normal(size=image.shape) * np.repeat([0.5, 3.0], 8)  # half of the dimensions are noise
    np.save(folder / "A.npy", image.astype(np.float32))
    np.save(folder / "B.npy", text.astype(np.float32))
    np.save(folder / "own.npy", own)
    import_set(run, folder, "data", [CLASSES[k] for k in own])
    import_set(run, folder, "plain", None)
    for direction in ("t2i", "i2t"):
        run("mine", folder / "data", "--direction", direction, "--pool", 100)
        run("train", "--data", folder / "data", "--direction", direction, "--lists",
            folder / "data/lists" / f"{direction}-train.parquet", "--features", "embeddings", *QUICK,
            "--out", folder / "runs" / direction, "--no-tracking")  # fmt: skip
    return folder


def evaluate(run, place, tmp_path, direction="t2i", data="data", *more):
    run("evaluate", place / "runs" / direction, "--data", place / data, "--json", tmp_path / "e.json", *more)
    return json.loads((tmp_path / "e.json").read_text())


def cosines(place, direction, split):
    """The cosines (queries, gallery) of a split and which pairs are of one class, from the arrays as imported."""
    image, text = (np.load(place / name) for name in ("A.npy", "B.npy"))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    image, text = (x.astype(np.float16).astype(np.float64)[split == SPLITS] for x in (image, text))
    own = np.load(place / "own.npy")[split == SPLITS]
    return (text @ image.T if direction == "t2i" else image @ text.T), own[:, None] == own, own


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_map_pairs_and_confusion_of_clip_are_scikit_learns(run, place, tmp_path, direction, capsys):
    report = evaluate(run, place, tmp_path, direction, "data", "--depth", 100, "--confusion", tmp_path / "c.csv")
    found = report["labels"]
    cosine, same, own = cosines(place, direction, "test")
    assert (report["queries"], report["candidates"]) == (60, 60)
    assert found["clip"]["MAP"] == pytest.approx(np.mean([average_precision_score(*q) for q in zip(same, cosine)]))  # noqa: B905
    assert found["relevant"] == same.sum() / 60
    assert all(found["ceiling"][name] == pytest.approx(1.0) for name in ("hit_rate@1", "hit_rate@10", "MAP"))
    assert found["ceiling"]["MAP@5"] == pytest.approx(np.mean(5 / same.sum(1)))

    expected = confusion_matrix(own, own[cosine.argmax(1)]).tolist()
    assert found["confusion"]["classes"] == list(CLASSES)
    assert found["confusion"]["clip"] == expected
    for row in ROWS:
        assert np.trace(found["confusion"][row]) / 60 == pytest.approx(found[row]["hit_rate@1"])
        assert np.sum(found["confusion"][row], axis=1).tolist() == np.bincount(own).tolist()
    with (tmp_path / "c.csv").open() as handle:
        lines = list(csv.reader(handle))
    assert lines[0] == ["ranking", "query", *CLASSES]
    assert lines[1:5] == [["clip", name, *map(str, counts)] for name, counts in zip(CLASSES, expected, strict=True)]
    assert [line[0] for line in lines[1:]] == ["clip"] * 4 + ["csls"] * 4 + ["ranker"] * 4

    val_cosine, val_same, _ = cosines(place, direction, "val")
    matches = {"class": (val_same, same), "item": (np.eye(40, dtype=bool), np.eye(60, dtype=bool))}
    for level, (val, test) in matches.items():
        precision, recall, thresholds = precision_recall_curve(val.ravel(), val_cosine.ravel())
        f1 = 2 * precision * recall / (precision + recall).clip(1e-12)
        pairs = found["pairs"][level]["clip"]
        assert pairs["threshold"] == pytest.approx(thresholds[f1[:-1].argmax()], abs=1e-6)
        counts = confusion_matrix(test.ravel(), cosine.ravel() >= pairs["threshold"] - 1e-7).tolist()
        assert [[pairs["tn"], pairs["fp"]], [pairs["fn"], pairs["tp"]]] == counts
        assert pairs["f1"] == pytest.approx(2 * pairs["tp"] / (2 * pairs["tp"] + pairs["fp"] + pairs["fn"]))
        assert found["pairs"][level]["listed"] == 1.0
    assert (found["pairs"]["val_queries"], found["pairs"]["val_gallery"]) == (40, 40)

    text = capsys.readouterr().out
    assert "by class: 4 classes, one an item" in text
    for row, label in (("clip", "CLIP"), ("ranker", "ranker")):
        shown = "".join(f"{100 * found[row][name]:12.2f}" for name in class_level.METRICS)
        assert f"{label:14}{shown}" in text
        one = found["pairs"]["class"][row]
        assert f"{one['threshold']:12.4g}{100 * one['precision']:12.2f}" in text
    assert all(name in text.split("queries by their class")[1] for name in CLASSES)


def test_what_the_lists_do_not_hold_is_missed_and_a_ceiling_says_so(run, place, tmp_path, capsys):
    report = evaluate(run, place, tmp_path, "t2i", "data", "--depth", 5)
    found = report["labels"]
    cosine, same, _ = cosines(place, "t2i", "test")
    listed = np.take_along_axis(same, np.argsort(-cosine, axis=1)[:, :5], 1)
    assert found["ceiling"]["MAP"] == pytest.approx(np.mean(listed.sum(1) / same.sum(1)))
    pairs = found["pairs"]["class"]
    assert pairs["listed"] == pytest.approx(listed.sum() / same.sum())
    for row in ROWS:
        assert found[row]["MAP"] == found[row]["MAP@5"] == found[row]["MAP@50"] <= found["ceiling"]["MAP"]
        assert pairs[row]["recall"] <= pairs["listed"]
        assert sum(pairs[row][name] for name in ("tp", "fp", "fn", "tn")) == 60 * 60
        assert pairs[row]["tp"] + pairs[row]["fn"] == same.sum()
    assert "too short for classes of this size: --depth 60 has" in capsys.readouterr().out
    evaluate(run, place, tmp_path, "t2i", "data", "--depth", 60)
    assert "too short" not in capsys.readouterr().out


def test_nothing_else_in_the_report_changes_and_runs_outlive_new_labels(run, place, tmp_path, capsys):
    capsys.readouterr()
    with_labels = evaluate(run, place, tmp_path)
    shown = capsys.readouterr().out
    without = evaluate(run, place, tmp_path, "t2i", "plain")
    plain = capsys.readouterr().out.splitlines()
    assert all(one.startswith(other) for one, other in zip(shown.splitlines(), plain, strict=False))
    assert "labels" not in without
    assert with_labels["labels"].pop("galleries")["clip"]["test"] == with_labels["clip"]["class MAP"]
    logged = json.loads((place / "runs/t2i/test.json").read_text())
    assert logged["ranker"]["class MAP"] == with_labels["ranker"]["class MAP"]
    for report in (with_labels, logged):
        for row in report["rows"]:
            del report[row]["class MAP"]
    assert {name: value for name, value in with_labels.items() if name[:6] != "labels"} == without
    assert without == {name: value for name, value in logged.items() if name != "labels_fingerprint"}
    data, plain = EmbeddingSet.open(place / "data"), EmbeddingSet.open(place / "plain")
    assert data.fingerprint == plain.fingerprint
    assert with_labels["labels"]["fingerprint"] == data.labels_fingerprint


def test_several_classes_an_item(run, place, tmp_path, capsys):
    own = np.load(place / "own.npy")
    import_set(
        run, place, "several", [f"{CLASSES[k]}|odd" if row % 7 == 0 else CLASSES[k] for row, k in enumerate(own)]
    )
    assert "5 classes" in capsys.readouterr().out
    found = evaluate(run, place, tmp_path, "t2i", "several")["labels"]
    assert (found["one_class"], found["classes"], found["confusion"]) == (False, 5, None)
    odd = (np.arange(len(SPLITS)) % 7 == 0)[SPLITS == "test"]
    assert found["relevant"] == (cosines(place, "t2i", "test")[1] | (odd[:, None] & odd)).sum() / 60
    assert "no confusion matrix of classes: items have several classes" in capsys.readouterr().out
    (tmp_path / "e.json").unlink()
    run("evaluate", place / "runs/t2i", "--data", place / "several", "--json", tmp_path / "e.json", "--confusion",
        tmp_path / "c.csv", code=2)  # fmt: skip
    assert "items of this set have several classes. Leave the option out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_said(run, place, tmp_path, capsys, monkeypatch):
    run("evaluate", place / "runs/t2i", "--data", place / "plain", "--confusion", tmp_path / "c.csv", code=2)
    assert "plain has no labels" in capsys.readouterr().err
    on_val = evaluate(run, place, tmp_path, "t2i", "data", "--split", "val")
    assert list(on_val["labels"]["pairs"]) == ["missing"]
    assert "matched pairs: thresholds are chosen on val, and flatter there" in capsys.readouterr().out
    own = [CLASSES[k] for k in np.load(place / "own.npy")]
    import_set(run, place, "no-val", own, np.where(SPLITS == "val", "train", SPLITS))
    assert "no val split" in evaluate(run, place, tmp_path, "t2i", "no-val")["labels"]["pairs"]["missing"]
    import_set(run, place, "many", [f"class {row}" for row in range(len(SPLITS))])
    capsys.readouterr()
    assert evaluate(run, place, tmp_path, "t2i", "many")["labels"]["relevant"] == 1.0
    assert "the confusion matrix of 60 classes is too large to show" in capsys.readouterr().out
    monkeypatch.setattr(class_level, "LARGEST_CONFUSION", 59)
    run("evaluate", place / "runs/t2i", "--data", place / "many", "--confusion", tmp_path / "c.csv", code=2)
    assert "60 classes are too many, 59 the most" in capsys.readouterr().err


def test_where_every_item_is_a_class_of_its_own_classes_and_items_are_one(run, place, tmp_path):
    import_set(run, place, "entities", [f"entity {row}" for row in range(len(SPLITS))])
    found = evaluate(run, place, tmp_path, "i2t", "entities")
    assert found["labels"]["pairs"]["class"] == found["labels"]["pairs"]["item"]
    for row in ROWS:
        assert found["labels"][row]["hit_rate@10"] == pytest.approx(found[row]["R@10"])
        assert found["labels"][row]["recall@10"] == pytest.approx(found[row]["R@10"])


def test_bad_labels_end_with_2_and_name_their_rows(run, place, tmp_path, capsys):
    own = [CLASSES[k] for k in np.load(place / "own.npy")]
    for change, message in (("", "line 4: labels is empty"), ("art||x", "line 4: labels 'art||x' names an empty")):
        write_table(tmp_path / "bad.csv", [*own[:2], change, *own[3:]])
        run("import", "--images", place / "A.npy", "--texts", place / "B.npy", "--captions", tmp_path / "bad.csv",
            "--out", tmp_path / "set", code=2)  # fmt: skip
        assert message in capsys.readouterr().err
        assert not (tmp_path / "set").exists()


def test_a_ranker_that_was_trained_on_val_too(run, place, tmp_path, capsys):
    """Its bank holds val's queries: they don't speak for their own candidates, or the thresholds would be others."""
    run("train", "--data", place / "data", "--direction", "t2i", *QUICK, "--set", "refit=true",
        "--out", place / "runs/refit", "--no-tracking")  # fmt: skip
    facts = json.loads((place / "runs/refit/config.json").read_text())
    assert facts["trained_on"] == ["train", "val"], "validation chose the untrained ranker: make the set easier"
    pairs = evaluate(run, place, tmp_path, "refit")["labels"]["pairs"]
    assert pairs["trained_on_val"]
    assert "the ranker was trained on val, too" in capsys.readouterr().out
    assert not evaluate(run, place, tmp_path)["labels"]["pairs"]["trained_on_val"]

    data = EmbeddingSet.open(place / "data")
    reranker = Reranker.from_pretrained(place / "runs/refit", "cpu")
    train = np.asarray(data.text_emb)[SPLITS == "train"]
    assert len(reranker.stack.bank) == 200
    val = rank_gallery(data, "t2i", "val")

    def threshold(bank):
        stack = replace(reranker.stack, bank=bank)
        scores = score_rows(rows_of(stack, data), data, val.lists, reranker.device)["csls"]
        scores = class_level.pair_scores("csls", scores, val)
        judged = class_level.by_class(data, val)
        return class_level.matched_pairs(scores, judged, (scores, judged))["threshold"]

    assert pairs["class"]["csls"]["threshold"] == pytest.approx(threshold(train))
    assert pairs["class"]["csls"]["threshold"] != pytest.approx(threshold(reranker.stack.bank))


def test_a_calibrated_ranker_decides_by_probability(run, place, tmp_path, capsys):
    run("train", "--data", place / "data", "--direction", "t2i", *QUICK, "--set", "calibrate=true",
        "--out", place / "runs/calibrated", "--no-tracking")  # fmt: skip
    capsys.readouterr()
    report = evaluate(run, place, tmp_path, "calibrated")
    pairs = report["labels"]["pairs"]
    assert pairs["ranker_score"] == "probability"
    assert 0 < pairs["item"]["ranker"]["threshold"] < 1
    assert "calibrate=true" not in capsys.readouterr().out
    data = EmbeddingSet.open(place / "data")
    reranker = Reranker.from_pretrained(place / "runs/calibrated", "cpu")
    scored = {}
    for split in ("val", "test"):
        stage = rank_gallery(data, "t2i", split)
        scores = score_rows(rows_of(reranker.stack, data), data, stage.lists, reranker.device)
        scored[split] = (reranker.calibration.probability(scores["ranker"]), stage)
    expected = class_level.matched_pairs(*scored["test"], scored["val"])
    assert pairs["item"]["ranker"] == pytest.approx(expected)


def test_names_in_the_terminal_carry_no_control_characters(run, place, tmp_path):
    report = evaluate(run, place, tmp_path)
    report["labels"]["confusion"] = {**report["labels"]["confusion"], "classes": ["a\x1b[31m", "b\n", "é", "x" * 40]}
    text = list(labelled.lines(report))
    assert all(line.isprintable() for line in text)
    assert any("é" in line for line in text)
    assert max(map(len, text[-5:])) <= 18 * 5


def test_the_report_does_not_depend_on_who_else_is_in_the_table(place):
    """Classes of the other splits neither count as relevant nor show in the matrix."""
    data = EmbeddingSet.open(place / "data")
    test = SPLITS == "test"
    renamed = [label if keep else "elsewhere" for label, keep in zip(data.images["labels"], test, strict=True)]
    other = replace(data, images=data.images.assign(labels=renamed), texts=data.texts.assign(labels=renamed))
    stage = rank_gallery(data, "t2i", "test")
    assert torch.equal(class_level.by_class(other, stage).n_relevant, class_level.by_class(data, stage).n_relevant)
    assert class_level.classes_met(other, stage) == (list(CLASSES), True)
