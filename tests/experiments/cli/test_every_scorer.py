"""Whatever scores can do everything: trained, evaluated, searched, compared and exported by the command line."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch

from experiments.run.tracking import read_runs
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.files import read_json
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.scorers import registry
from rank_xmodal.scorers.local.heads import HEADS
from rank_xmodal.scorers.projections.base import Projection

DOCS = Path(__file__).parents[3] / "docs"
HEAD = {"width": 16, "steps": 10, "batch_size": 16, "folds": 2}
QUICK = {
    "context_aware": {"epochs": 2},
    "allrank": {"epochs": 1, "pool": "all", "layers": 1},
    "dcca": {"epochs": 3, "hidden": 32},
    "cmpm": {"epochs": 3},
    "vsepp": {"epochs": 3},
    **{name: {"epochs": 3} for name in ("mlp", "prototype", "hash")},
    **dict.fromkeys(HEADS, HEAD),
    "fusion": {**HEAD, "blocks": 1, "heads": 1},
    "sgraf": {**HEAD, "similarity_width": 8},
    "blip_itm": {"top": 1},
    "remote": {"top": 1},
}
MAPS = {name for name in scorers.names() if issubclass(scorers.class_of(name), Projection)}


@pytest.fixture
def outside(request):
    """Return a function from a scorer's name to the settings that only a fixture knows."""
    known = {
        "blip_itm": lambda: {"model": request.getfixturevalue("tiny_blip")},
        "remote": lambda: {"url": request.getfixturevalue("rerank_server").url},
    }
    return lambda name: known[name]() if name in known else {}


def settings(name, **more):
    values = {"device": "cpu", **QUICK.get(name, {}), **more}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def road(run, place, tmp_path, capsys, name, *more):
    """Walk the whole road with a scorer and return its report."""
    out = tmp_path / "run"
    run("train", "--data", place / "data", "--direction", "both", "--scorer", name, *more, "--out", out,
        "--mlruns", place / "mlruns-of-scorers")  # fmt: skip
    report = json.loads((tmp_path / "run-t2i/test.json").read_text())
    run("evaluate", tmp_path / "run-t2i", "--data", place / "data", "--json", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again.pop("labels")["classes"] == 80
    assert again == report
    own = ["csls_on_vsepp"] if name == "context_aware" and not any("on=" in part for part in more) else []
    assert report["rows"] == ["clip", "csls", *own, "ranker"]
    assert all(0 <= report["ranker"][metric] <= 1 for metric in ("R@1", "R@5", "R@10", "MRR", "NDCG@10"))
    text = EmbeddingSet.open(place / "data").texts["text"][0]
    capsys.readouterr()
    run("search", tmp_path / "run-t2i", "--data", place / "data", "--text", text, "-k", 5)
    assert len(capsys.readouterr().out.splitlines()) == 5
    run("compare", tmp_path / "run-t2i", tmp_path / "run-i2t", "--format", "csv")
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * len(report["rows"]), "a header, and rows a direction"
    run("export", tmp_path / "run-t2i", "--data", place / "data", "--format", "trec", "--out", tmp_path / "trec")
    queries = report["queries"]
    assert len((tmp_path / "trec/run.txt").read_text().splitlines()) == queries * report["candidates"]
    page = (tmp_path / "run-i2t/report.html").read_text()
    assert "<html" in page
    logged = {facts["mlflow_run"] for facts in map(read_json, tmp_path.glob("run-*/config.json"))}
    runs = [found for found in read_runs(place / "mlruns-of-scorers", "data") if found["run_id"] in logged]
    assert {found["tags"]["direction"] for found in runs} == {"t2i", "i2t"}
    assert all(found["tags"]["scorer"] == name and "test/R1" in found["metrics"] for found in runs)
    card = (tmp_path / "run-t2i/README.md").read_text()
    assert scorers.class_of(name).paper in card
    assert found_by_the_lines_of(card, EmbeddingSet.open(place / "data")).shape == (3, 10)
    return report


def found_by_the_lines_of(card, data):
    """Search as a model card says."""
    (images, texts), content = tables_of(data), Content.of(data, "t2i")
    given = {
        "embeddings": data.image_emb, "ids": data.images["image_id"], "tokens": images, "content": content.candidates,
        "query_embeddings": data.text_emb[:3], "query_tokens": texts.select(torch.arange(3)),
        "query_content": content.queries[:3],
    }  # fmt: skip
    exec(re.search(r"```python\n(.*?)```", card, re.S).group(1), given)
    return given["hits"].ids


@pytest.mark.parametrize("name", scorers.names())
def test_the_whole_road(run, place, tmp_path, capsys, outside, name):
    if name == "allrank":
        pytest.importorskip("allrank.models.model")
    report = road(run, place, tmp_path, capsys, name, *settings(name, **outside(name)))
    for row in ("clip", "csls"):
        if name == row:
            assert report["ranker"] == report[row]
    found = "--first-stage", "own", "--json", tmp_path / "own.json"
    run("evaluate", tmp_path / "run-t2i", "--data", place / "data", *found, code=0 if name in MAPS else 2)
    if name in MAPS:
        own = json.loads((tmp_path / "own.json").read_text())
        assert own["first_stage"] == name
        assert own["ranker"]["R@1"] >= report["ranker"]["R@1"] - 0.05
        run("search", tmp_path / "run-i2t", "--data", place / "data", "--first-stage", "own", "-k", 3, "--image",
            image_files(EmbeddingSet.open(place / "data"))[0])  # fmt: skip
        assert len(capsys.readouterr().out.splitlines()) >= 3
    else:
        assert "no space to search in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "base"), [("csls", "vsepp"), ("context_aware", "centred"), ("context_aware", "cca"), ("pool", "cca")]
)
def test_a_scorer_on_another(run, place, tmp_path, capsys, name, base):
    road(run, place, tmp_path, capsys, name, *settings(name, on=base))
    facts = json.loads((tmp_path / "run-t2i/config.json").read_text())
    assert facts["base"]["settings"]["scorer"] == base
    run("evaluate", tmp_path / "run-t2i", "--data", place / "data", "--first-stage", "own",
        "--json", tmp_path / "own.json")  # fmt: skip
    assert json.loads((tmp_path / "own.json").read_text())["first_stage"] == base


def test_the_ranker_with_heads_of_its_own(run, place, tmp_path, capsys, small_heads):
    small_heads(width=16, steps=10, batch_size=16)
    chosen = settings("context_aware", folds=2, local="[pool,late_interaction]")
    road(run, place, tmp_path, capsys, "context_aware", *chosen)
    facts = json.loads((tmp_path / "run-t2i/config.json").read_text())
    assert facts["settings"]["local"] == facts["model"]["local"] == ["pool", "late_interaction"]
    assert facts["tokens"]["path"] == "features"
    run("protocols", tmp_path / "run-t2i", "--data", place / "data", "--fold-size", 100)


def test_lists_of_ones_own_are_refused_where_they_are_of_no_use(run, place, tmp_path, capsys):
    run("mine", place / "data", "--direction", "t2i", "--pool", 100, "--out", tmp_path / "l.parquet")
    train = ("train", "--data", place / "data", "--direction", "t2i", "--lists", tmp_path / "l.parquet", "--out")
    run(*train, tmp_path / "a", "--scorer", "vsepp", code=2)
    assert "scorer=vsepp is not trained on any" in capsys.readouterr().err
    run(*train, tmp_path / "a", "--on", "cca", code=2)
    assert "on=cca scores lists out of fold" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_guide_to_extending_makes_a_scorer_that_does_everything(run, place, tmp_path, capsys, monkeypatch):
    """The page's own code, registered from outside of the package."""
    text = (DOCS / "extending.md").read_text()
    whitened, weakest_word = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_SCORERS", dict(registry._SCORERS))
    for code, module, name in ((whitened, "whitened", "Whitened"), (weakest_word, "weakest_word", "WeakestWord")):
        assert len(code.splitlines()) <= 40
        (tmp_path / f"{module}.py").write_text(code)
        scorers.register(getattr(importlib.import_module(module), name))
    (tmp_path / "head").mkdir()
    road(run, place, tmp_path / "head", capsys, "weakest_word", *settings("late_interaction"))
    report = road(run, place, tmp_path, capsys, "whitened", "--set", "device=cpu")
    assert report["ranker"]["R@1"] > 0.1, "chance is 0.005"
    (tmp_path / "my-study.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.S).group(1))
    run("study", tmp_path / "my-study.yaml", "--data", place / "data", "--seeds", 1, "--set", "epochs=1",
        "--out", tmp_path / "study", "--mlruns", place / "mlruns-of-scorers")  # fmt: skip
    assert "whitened" in capsys.readouterr().out


def test_a_name_that_is_taken_is_refused():
    class Mine(scorers.Scorer):
        name, label, paper = "csls", "mine", "none"

        def score(self, batch):
            return batch.cosine

    with pytest.raises(scorers.registry.UserError, match="a scorer named 'csls' is there already"):
        scorers.register(Mine)
