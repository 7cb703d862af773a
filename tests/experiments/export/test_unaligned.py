"""Exports of a set whose images and texts share no space: there is no CLIP in them."""

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success
from sklearn.datasets import load_svmlight_file

from experiments.export.formats import export_libsvm, export_trec
from experiments.results.evaluate import evaluate_run
from rank_xmodal.use.reranker import Reranker

RUNS = ("cca-t2i", "csls-i2t")


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("depth", [60, 20])
def test_the_reference_is_a_random_order_with_the_figures_of_the_report(two_kinds, tmp_path, name, depth):
    folder, data = two_kinds
    said = []
    paths = export_trec(folder / name, data, "test", tmp_path, depth=depth, device="cpu", say=said.append)
    assert [path.name for path in paths] == ["run.txt", "chance.txt", "qrels.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chance.txt", "qrels.txt", "run.txt"]
    report = evaluate_run(Reranker.from_pretrained(folder / name, "cpu"), data, "test", depth=depth).report
    judged = list(ir_measures.read_trec_qrels(str(paths[2])))
    measures = {"R@1": Success @ 1, "R@10": Success @ 10, "MRR": RR}
    for path, row in zip(paths, ("ranker", "chance"), strict=False):
        found = ir_measures.calc_aggregate(measures.values(), judged, list(ir_measures.read_trec_run(str(path))))
        for metric, measure in measures.items():
            assert found[measure] == pytest.approx(report[row][metric], abs=1e-6), (row, metric)
    assert {line.split()[-1] for line in paths[1].read_text().splitlines()} == {"random-order"}
    assert "clip" not in "".join(path.read_text() for path in paths).lower()
    told = [line for line in said if "random order of the top 20 of 60 that were found by CCA" in line]
    assert len(told) == (depth < 60), "of what CCA found, a random order is better than chance"


@pytest.mark.parametrize("name", RUNS)
def test_features_are_as_wide_as_they_are_on_both_sides(two_kinds, tmp_path, name):
    folder, data = two_kinds
    said = []
    (path,) = export_libsvm(folder / name, data, "test", tmp_path, depth=20, device="cpu", say=said.append)
    assert "60 lists of 20, 11 features" in said[0]
    told = float(said[0].split("about ")[1].split()[0])
    assert told == pytest.approx(path.stat().st_size / 1e3, rel=0.15), said
    features, _, query = load_svmlight_file(str(path), query_id=True)
    assert features.shape == (1_200, 11)
    pairs = [line.split("# ")[1].split() for line in path.read_text().splitlines()[:20]]
    for row, (asked, answer) in enumerate(pairs):
        image, text = (answer, asked) if name.endswith("t2i") else (asked, answer)
        wanted = np.concatenate([data.image_emb[int(image[1:])], data.text_emb[int(text[1:])]])
        assert np.array_equal(features[row].toarray()[0].astype(np.float32), wanted)
    assert (query[:20] == int(pairs[0][0][1:])).all()
