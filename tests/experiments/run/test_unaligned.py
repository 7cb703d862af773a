"""The road of a set whose images and texts share no space: train, evaluate, compare, report."""

import json

import numpy as np
import pytest
from scipy.io import loadmat, savemat


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, run):
    """Return the folder of a set of 200 pairs, images 12 and texts 5 wide, of four classes."""
    folder = tmp_path_factory.mktemp("unaligned")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 200)
    known = np.eye(4)[kind] + 0.4 * rng.normal(size=(200, 4))
    images = known @ rng.normal(size=(4, 12)) + 0.2 * rng.normal(size=(200, 12))
    texts = known @ rng.normal(size=(4, 5)) + 0.2 * rng.normal(size=(200, 5))
    parts = {"I": images, "T": texts, "L": kind[:, None] + 1}
    savemat(folder / "some.mat", {f"{k}_{split}": v[part] for k, v in parts.items()
                                  for split, part in (("tr", slice(0, 140)), ("te", slice(140, 200)))})  # fmt: skip
    run("import", "--mat", folder / "some.mat", "--val", "0.2", "--out", folder / "set")
    return folder


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_projection_is_trained_judged_and_reported(labelled, run, tmp_path, direction, capsys):
    out = tmp_path / "cca"
    common = ("--data", labelled / "set", "--set", "device=cpu")
    run("train", *common, "--direction", direction, "--scorer", "cca", "--out", out, "--mlruns", tmp_path / "mlruns")
    said = capsys.readouterr().out
    assert "of what CCA finds" in said
    assert "random order" in said
    run("evaluate", out, "--data", labelled / "set", "--depth", "60", "--json", tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["rows"] == ["chance", "ranker"]
    assert found["labels"]["ranker"]["MAP"] > 0.6 > 0.4 > found["labels"]["chance"]["MAP"]
    assert found["ranker"]["R@1"] > found["chance"]["R@1"]
    run("report", out, "--data", labelled / "set")
    assert "random order" in (out / "report.html").read_text()
    run("compare", out)
    assert "CCA" in capsys.readouterr().out


def test_hubness_is_corrected_in_the_space_of_a_projection(labelled, run, tmp_path):
    common = ("--data", labelled / "set", "--set", "device=cpu", "--no-tracking", "--direction", "t2i")
    run("train", *common, "--scorer", "csls", "--on", "cca", "--out", tmp_path / "csls")
    run("evaluate", tmp_path / "csls", "--data", labelled / "set")


@pytest.mark.parametrize(
    "asked",
    [("--scorer", "csls"), ("--scorer", "vsepp"), (), ("--on", "cca"), ("--scorer", "clip"), ("--scorer", "chance")],
)
def test_what_needs_a_cosine_names_those_that_do_not(labelled, run, tmp_path, asked, capsys):
    run("train", "--data", labelled / "set", "--direction", "t2i", "--set", "device=cpu", "--no-tracking", *asked,
        "--out", tmp_path / "run", code=2)  # fmt: skip
    said = capsys.readouterr().err
    assert "lie in no common space" in said
    assert "Choose one that makes a space: cca, dcca, linear" in said


def test_mining_by_a_cosine_is_refused(labelled, run, capsys):
    run("mine", labelled / "set", "--direction", "t2i", code=2)
    assert "lie in no common space" in capsys.readouterr().err


@pytest.mark.parametrize(
    "asked",
    [
        ("linear",), ("linear", "method=pls"), ("posterior", "method=hsnn"), ("mlp", "objective=dscmr", "epochs=12"),
        ("prototype", "epochs=12"), ("hash", "bits=16", "epochs=12"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_heads_for_classes_find_them(labelled, run, tmp_path, asked):
    """Fitted again on train and val with what was chosen, kept, and judged from what was kept."""
    name, *values = asked
    more = [part for value in values for part in ("--set", value)]
    run("train", "--data", labelled / "set", "--set", "device=cpu", "--direction", "i2t", "--scorer", name, *more,
        "--no-tracking", "--out", tmp_path / "run")  # fmt: skip
    facts = json.loads((tmp_path / "run/config.json").read_text())
    assert facts["trained_on"] == ["train", "val"]
    run("evaluate", tmp_path / "run", "--data", labelled / "set", "--depth", "60", "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["labels"]["ranker"]["MAP"] > found["labels"]["chance"]["MAP"] + 0.25


def test_it_resolves_beside_a_random_order(labelled, run, tmp_path):
    run("train", "--data", labelled / "set", "--set", "device=cpu", "--set", "refit=false", "--direction", "t2i",
        "--scorer", "cca", "--no-tracking", "--out", tmp_path / "run")  # fmt: skip
    run("resolve", tmp_path / "run", "--data", labelled / "set", "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["rows"] == ["chance", "ranker"]
    assert found["ranker"]["assignment"]["f1"] > found["chance"]["assignment"]["f1"]


def test_other_classes_make_another_training(labelled, run, tmp_path, capsys):
    """The set's fingerprint leaves classes out; what learns from them must not be taken for the same."""
    held = loadmat(labelled / "some.mat")
    held["L_tr"] = held["L_tr"][::-1]
    savemat(tmp_path / "other.mat", {key: value for key, value in held.items() if not key.startswith("__")})
    run("import", "--mat", tmp_path / "other.mat", "--val", "0.2", "--out", tmp_path / "set")
    common = ("--set", "device=cpu", "--direction", "t2i", "--no-tracking", "--out", tmp_path / "run")
    run("train", "--data", labelled / "set", "--scorer", "linear", *common)
    run("train", "--data", tmp_path / "set", "--scorer", "linear", *common, code=2)
    assert "holds a ranker trained with other settings or on other data" in capsys.readouterr().err


def test_sets_of_another_kind_or_width_are_refused(labelled, run, random_set, tmp_path, capsys):
    other = random_set(["train"] * 30 + ["test"] * 10, d=5).write(tmp_path / "aligned")
    run("train", "--data", labelled / "set", "--set", "device=cpu", "--direction", "t2i", "--scorer", "cca",
        "--no-tracking", "--out", tmp_path / "run")  # fmt: skip
    run("evaluate", tmp_path / "run", "--data", other.root, code=2)
    assert "was trained on features of two kinds" in capsys.readouterr().err
    held = loadmat(labelled / "some.mat")
    narrow = {key: value[:, :9] if key.startswith("I_") else value for key, value in held.items() if key[0] in "ITL"}
    savemat(tmp_path / "narrow.mat", narrow)
    run("import", "--mat", tmp_path / "narrow.mat", "--out", tmp_path / "narrow")
    run("evaluate", tmp_path / "run", "--data", tmp_path / "narrow", code=2)
    assert "takes embeddings 5 and 12 wide" in capsys.readouterr().err


def test_probabilities_are_not_promised(labelled, run, tmp_path, capsys):
    run("train", "--data", labelled / "set", "--set", "device=cpu", "--set", "calibrate=true", "--direction", "t2i",
        "--scorer", "cca", "--no-tracking", "--out", tmp_path / "run", code=2)  # fmt: skip
    assert "this set has no common space" in capsys.readouterr().err
