"""Values that no verb can use: each ends with 2 and one message, before anything is read or written."""

import os

import pytest
import torch

from rank_xmodal.scorers.settings import LARGEST

MINE = ("mine", "none", "--direction", "t2i")
EMBED = ("embed", "--dataset", "folder", "--root", "none", "--model", "x", "--pretrained", "y", "--out", "new")
TRAIN = ("train", "--data", "none", "--direction", "t2i", "--out", "new")
EVALUATE = ("evaluate", "none", "--data", "none")
EXPORT = ("export", "none", "--data", "none", "--format", "trec", "--out", "new")
PROTOCOLS = ("protocols", "none", "--data", "none")
STUDY = ("study", "losses", "--data", "none")
PAPER = ("paper", "--data", "none")
HUGE = str(10**30)
LONG = "12345678901234567890123456"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Work in an empty folder, which is to stay so."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".yaml"] == []


@pytest.fixture
def refused(run, capsys):
    """Return a function that runs a command line which is to be refused, and returns the line that says why."""

    def call(*arguments):
        run(*arguments, code=2)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        said = [line for line in captured.err.splitlines() if line.startswith(("Error: ", "rank-xmodal: "))]
        assert len(said) == 1, captured.err
        return said[0]

    return call


@pytest.mark.parametrize("pool", ["²", "0", "-3", "many", "", "1.5", HUGE, "9" * 5_000])
def test_a_pool_is_a_number_of_candidates_or_all(refused, pool):
    """`str.isdigit` takes the superscript, `int` doesn't."""
    said = refused(*MINE, "--pool", pool)
    assert "--pool" in said
    assert said.endswith("; or say 'all'.")


@pytest.mark.parametrize("seed", [LONG, str(LARGEST + 1), "-1", "9" * 5_000])
@pytest.mark.parametrize("verb", [MINE, EMBED, TRAIN])
def test_a_seed_has_32_bits(refused, verb, seed):
    assert "--seed" in refused(*verb, "--seed", seed)


@pytest.mark.parametrize("key", ["seed", "epochs", "patience", "batch_size", "negatives", "pool", "d_ff", "folds"])
@pytest.mark.parametrize("value", [HUGE, LONG])
def test_a_setting_is_no_number_that_torch_can_not_hold(refused, key, value):
    said = refused(*TRAIN, "--set", f"{key}={value}")
    assert f"settings: {key}={value}: " in said
    assert "less than or equal to" in said


def test_neither_is_one_of_a_file_or_a_plan(refused, nowhere):
    (nowhere / "s.yaml").write_text(f"seed: {LONG}\n")
    assert f"s.yaml: seed={LONG}: " in refused(*TRAIN, "--config", "s.yaml")
    (nowhere / "p.yaml").write_text(f"rows: {{one: {{seed: {LONG}}}}}\n")
    assert f"p.yaml: rows: one: seed={LONG}: " in refused("study", "p.yaml", "--data", "none")


def test_the_largest_seed_is_taken(refused):
    assert "none: no such folder" in refused(*TRAIN, "--seed", LARGEST, "--set", "device=cpu")
    torch.manual_seed(LARGEST * 1_000_003 + LARGEST)  # as the training loop does, with the most epochs


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        (MINE, "--negatives"),
        (MINE, "--range-min"),
        (EMBED, "--batch-size"),
        (EVALUATE, "--depth"),
        (EXPORT, "--depth"),
        (PROTOCOLS, "--depth"),
        (PROTOCOLS, "--fold-size"),
        (STUDY, "--seeds"),
        (STUDY, "--folds"),
        (STUDY, "--permutations"),
        (PAPER, "--seeds"),
        (PAPER, "--epochs"),
    ],
)
def test_an_option_is_no_number_that_torch_can_not_hold(refused, verb, option):
    assert option in refused(*verb, option, HUGE)


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        (MINE, "--out"),
        (EMBED, "--out"),
        (EMBED, "--root"),
        (EMBED, "--captions"),
        (("import", "--out", "new"), "--images"),
        (("train", "--direction", "t2i", "--out", "new"), "--data"),
        (TRAIN, "--out"),
        (TRAIN, "--config"),
        (TRAIN, "--lists"),
        (TRAIN, "--mlruns"),
        (EVALUATE, "--json"),
        (EVALUATE, "--confusion"),
        (PROTOCOLS, "--json"),
        (EXPORT, "--out"),
        (("report", "none", "--data", "none"), "--out"),
        (("compare", "none"), "--plots"),
        (STUDY, "--out"),
        (("demo",), "--config"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(refused, verb, option):
    said = refused(*verb, option, "")
    assert option in said
    assert "the path is empty" in said


def test_neither_is_an_empty_argument(refused):
    assert "the path is empty" in refused("mine", "", "--direction", "t2i")
    assert "the path is empty" in refused("compare", "")
    assert "no such file or plan" in refused("study", "", "--data", "none")


ODD_DEVICES = ["quantum", "cuda:99", "meta", "cpu:7", "", "cuda:x", "cuda:-1", "hpu", "privateuseone", "xla"]
ODD_DEVICES += [] if torch.backends.mps.is_available() else ["mps"]
ODD_DEVICES += [] if torch.cuda.is_available() else ["cuda"]


@pytest.mark.parametrize("device", ODD_DEVICES)
def test_a_device_that_is_not_there_is_told_those_that_are(refused, device):
    for command in (
        (*EMBED, "--device", device),
        (*EVALUATE, "--device", device),
        ("search", "none", "--data", "none", "--text", "a star", "--device", device),
        (*TRAIN, "--set", f"device='{device}'"),
        (*STUDY, "--set", f"device='{device}'"),
    ):
        said = refused(*command)
        assert f"device={device!r}: " in said
        assert "Use auto or one of cpu" in said
        assert len(said) < 200


@pytest.mark.parametrize(
    "assignment",
    ["lr=1e30", "lr=1e300", "weight_decay=1e300", "d_model=1000000000", "layers=1000000000", "heads=1000000000",
     "d_ff=1000000000", "lr=nan", "lr=inf", "clip=inf", "weight_decay=.nan", "dropout=nan", "dropout=.inf"],
)  # fmt: skip
def test_no_network_and_no_step_is_that_large(refused, assignment):
    assert f"settings: {assignment.partition('=')[0]}=" in refused(*TRAIN, "--set", assignment)


@pytest.mark.parametrize("option", ["--absolute-margin", "--relative-margin", "--max-score"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "much"])
def test_a_margin_is_a_finite_number(refused, option, value):
    assert option in refused(*MINE, option, value)


@pytest.mark.skipif(os.name == "nt", reason="paths are no bytes there")
def test_a_path_that_is_no_utf8_is_refused_before_anything_is_made(run, tmp_path, capsys):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/nu\xff")
    for arguments in (("--data", odd, "--out", tmp_path / "x"), ("--data", tmp_path, "--out", odd)):
        run("train", *arguments, "--direction", "t2i", code=2)
        assert "no UTF-8" in capsys.readouterr().err
