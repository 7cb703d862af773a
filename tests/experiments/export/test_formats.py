"""Exports read back by the tools that they are for."""

from dataclasses import replace

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success, nDCG
from sklearn.datasets import load_svmlight_file

from experiments.cli import main as cli
from experiments.export.formats import escape_id, export_libsvm, export_trec
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.files import read_json
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.use.reranker import Reranker


@pytest.fixture(scope="module")
def place(random_set, tmp_path_factory):
    """Return a folder with a set, whose ids have spaces and signs, and a trained run."""
    folder = tmp_path_factory.mktemp("export")
    data = random_set(["train"] * 80 + ["test"] * 60, noise=1.0)
    data.images["image_id"] = [f"bild {k} %" for k in range(140)]
    stored = data.write(folder / "set")
    plan = scorers.parse({"epochs": 4, "lr": 5e-3, "negatives": 20, "device": "cpu"})
    run_training(stored, "t2i", plan, folder / "run", tracking=None, say=lambda line: None)
    return folder, stored


def test_a_published_library_computes_our_figures_from_trec_files(place, tmp_path):
    folder, data = place
    run, clip, qrels = export_trec(folder / "run", data, "test", tmp_path, device="cpu", say=lambda line: None)
    report = read_json(folder / "run" / "test.json")
    names = {"R@1": Success @ 1, "R@5": Success @ 5, "R@10": Success @ 10, "MRR": RR, "NDCG@10": nDCG @ 10}
    judged = list(ir_measures.read_trec_qrels(str(qrels)))
    for path, row in ((run, "ranker"), (clip, "clip")):
        found = ir_measures.calc_aggregate(names.values(), judged, list(ir_measures.read_trec_run(str(path))))
        for name, measure in names.items():
            assert found[measure] == pytest.approx(report[row][name], abs=1e-6), (row, name)


def test_scikit_learn_reads_the_lists_back(place, tmp_path):
    folder, data = place
    said = []
    (path,) = export_libsvm(folder / "run", data, "test", tmp_path, device="cpu", say=said.append)
    features, labels, query = load_svmlight_file(str(path), query_id=True)
    stage = rank_gallery(data, "t2i", "test")
    assert (labels.reshape(stage.lists.labels.shape) == stage.lists.labels).all()
    assert (query.reshape(stage.lists.labels.shape) == stage.lists.query[:, None]).all()
    wanted = np.concatenate(
        [data.image_emb[stage.lists.candidates[0]], data.text_emb[np.repeat(stage.lists.query[:1], 51)]], axis=1
    )
    assert np.array_equal(features.toarray()[:51].astype(np.float32), wanted.astype(np.float32))
    told = float(said[0].split("about ")[1].split()[0])
    assert told == pytest.approx(path.stat().st_size / 1e3, rel=0.15), said


def test_an_id_is_one_word_and_stays_unique():
    ids = ["a b", "a%20b", "a\tb", "a%b", "", "%", "é", "a\u2028b", "ab"]
    words = [escape_id(text) for text in ids]
    assert len(set(words)) == len(ids)
    assert all(len(word.split()) == 1 for word in words)
    assert escape_id("a b") == "a%20b"
    assert escape_id("img_01.jpg") == "img_01.jpg"


def test_the_command_writes_and_names_its_files(place, tmp_path, capsys):
    folder, _ = place
    common = ["export", str(folder / "run"), "--data", str(folder / "set"), "--out", str(tmp_path / "o")]
    cli.main([*common, "--format", "trec"])
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["clip.txt", "qrels.txt", "run.txt"]
    assert str(tmp_path / "o" / "run.txt") in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*common, "--format", "trec", "--split", "val"])
    assert "val" in capsys.readouterr().err


@pytest.mark.parametrize(("trained_on", "split", "told"), [(["train", "val"], "val", 1), (["train"], "test", 0)])
def test_a_split_that_the_ranker_was_trained_on_is_said(place, tmp_path, monkeypatch, trained_on, split, told):
    """A small set's ranker is trained again on train and val together."""
    folder, stored = place
    real = Reranker.from_pretrained

    def opened(*arguments):
        reranker = real(*arguments)
        reranker.facts["trained_on"] = trained_on
        return reranker

    monkeypatch.setattr(Reranker, "from_pretrained", opened)
    splits = {"test": "val"} if split == "val" else {}
    data = replace(stored, images=stored.images.replace(splits), texts=stored.texts.replace(splits))
    said = []
    export_trec(folder / "run", data, split, tmp_path, device="cpu", say=said.append)
    assert [f"{split}: the ranker was trained on" in line for line in said] == [True] * told
