"""The same commands by processes and on a cluster of two machines: the same bytes out, whatever dies on the way."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from data_prep.mining.miner import mine
from experiments.cli.main import main
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import IMAGE, OFFSETS, TEXT
from rank_xmodal.parallel import executor_named
from rank_xmodal.parallel.on_ray import OnRay


def call(*arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        if stop.code:
            raise


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the folder of 3,000 images and captions, whose mining takes a few blocks."""
    rng = np.random.default_rng(0)
    splits = ["train"] * 2_400 + ["val"] * 200 + ["test"] * 400
    image = rng.normal(size=(len(splits), 16))
    text = image + 0.8 * rng.normal(size=image.shape)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    rows = range(len(splits))
    made = EmbeddingSet(
        image.astype(np.float16),
        text.astype(np.float16),
        pd.DataFrame({"image_id": [f"i{k}" for k in rows], "path": "", "split": splits}),
        pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": [f"c{k}" for k in rows], "split": splits}),
        pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
        {"name": "many"},
    )
    return made.write(tmp_path_factory.mktemp("many") / "set").root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder of 150 small images with captions."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for row in range(150):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{row:03}.png")
    lines = [f"{row:03}.png,photo {row} of a {row % 7} thing,train" for row in range(150)]
    (folder / "captions.csv").write_text("\n".join(["image,caption,split", *lines]), encoding="utf-8")
    return folder


@pytest.fixture
def how(request):
    """Return a way to work, with what it needs standing."""
    if request.param == "ray":
        request.getfixturevalue("second")
    return request.param


each_way = pytest.mark.parametrize("how", ["2", "ray"], indirect=True)


@pytest.fixture
def failing(second, monkeypatch):
    """Let the second machine fail when the first part of a map has ended; return how often that was."""
    real, failed = OnRay.map, []

    def until_it_fails(self, *arguments, **named):
        for number, finished in enumerate(real(self, *arguments, **named)):
            if not number and not failed:
                second()
                failed.append(True)
            yield finished

    monkeypatch.setattr(OnRay, "map", until_it_fails)
    return failed


@pytest.fixture
def small_parts(monkeypatch):
    """Cut work into parts so small that there are several."""
    monkeypatch.setattr(mine, "__kwdefaults__", {**mine.__kwdefaults__, "block": 300})
    monkeypatch.setattr("experiments.results.sharing._QUERIES", 64)
    monkeypatch.setattr("data_prep.embed_sharing._BATCHES", 2)
    monkeypatch.setattr("data_prep.embed_tokens._BATCHES", 3)


@each_way
@pytest.mark.parametrize(
    "options",
    [
        ["--protocol", "clean"],
        ["--protocol", "clean", "--pool", "all", "--relative-margin", "0.02"],
        ["--protocol", "clean", "--pool", "all", "--shards", "3"],
        ["--protocol", "paper", "--pool", "all", "--shards", "2"],
        ["--protocol", "natural", "--pool", "500"],
    ],
    ids=" ".join,
)
def test_lists_are_the_same(how, options, data, tmp_path, small_parts):
    whole = options[: options.index("--shards")] if "--shards" in options else options
    call("mine", data, "--direction", "t2i", *whole, "--out", tmp_path / "alone.parquet")
    call("mine", data, "--direction", "t2i", *options, "--parallel", how, "--out", tmp_path / "parts.parquet")
    assert digest(tmp_path / "alone.parquet") == digest(tmp_path / "parts.parquet")


@pytest.mark.parametrize("how", ["2", "ray"])
def test_a_relative_path_means_the_same_to_workers(how, request, data, tmp_path, monkeypatch, small_parts):
    if how == "ray":
        request.getfixturevalue("cluster")  # whose machines were started elsewhere
    monkeypatch.chdir(data.parent)
    for name, options in (("whole", []), ("shards", ["--shards", "3", "--parallel", how])):
        call("mine", "set", "--direction", "t2i", "--pool", "all", *options, "--out", tmp_path / f"{name}.parquet")
    assert digest(tmp_path / "whole.parquet") == digest(tmp_path / "shards.parquet")
    assert studied(Path("set"), tmp_path / "study", "--parallel", how)


def test_a_set_written_anew_between_two_mines_is_the_one_that_is_mined(tmp_path):
    def written(seed):
        image, text = np.random.default_rng(seed).normal(size=(2, 90, 8))
        image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        rows = range(90)
        tables = (
            pd.DataFrame({"image_id": [f"i{k}" for k in rows], "path": "", "split": "train"}),
            pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": [f"c{k}" for k in rows], "split": "train"}),
            pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
        )
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        return EmbeddingSet(image.astype(np.float16), text.astype(np.float16), *tables, {"name": "set"}).write(
            tmp_path / "set"
        )

    with executor_named("2") as executor:
        for seed in (0, 1):
            data = written(seed)
            alone, there = (mine(data, "t2i", pool="all", negatives=9, executor=who) for who in (None, executor))
            assert np.array_equal(alone.candidates, there.candidates)


def embedded(photos, out, *options):
    words = ["--dataset", "folder", "--root", photos, "--captions", photos / "captions.csv"]
    call("embed", *words, "--model", "scenes-clip", "--pretrained", "scenes", "--batch-size", 8, "--out", out, *options)
    return [digest(out / name) for name in ("image_emb.npy", "text_emb.npy", "images.parquet", "texts.parquet")]


@each_way
def test_embeddings_are_the_same(how, photos, tmp_path, small_parts):
    assert embedded(photos, tmp_path / "set", "--parallel", how) == embedded(photos, tmp_path / "alone" / "set")
    assert not list(tmp_path.glob(".*.partial"))


@each_way
@pytest.mark.parametrize("path", ["values", "features"])
def test_tokens_are_the_same(how, path, photos, tmp_path, small_parts):
    words = ["--tokens", path]
    embedded(photos, tmp_path / "set", "--parallel", how, *words)
    embedded(photos, tmp_path / "alone" / "set", *words)
    for name in (IMAGE, TEXT, OFFSETS):
        assert digest(tmp_path / "set" / name) == digest(tmp_path / "alone" / "set" / name)
    assert not list(tmp_path.glob(".*.tokens"))


def test_embeddings_are_the_same_with_broken_files_among_them(photos, tmp_path, small_parts, capsys, monkeypatch):
    broken = tmp_path / "photos"
    shutil.copytree(photos, broken)
    for row in (3, 40, 41, 120):  # their beginnings are whole
        path = broken / f"{row:03}.png"
        path.write_bytes(path.read_bytes()[:-600])
    monkeypatch.chdir(tmp_path)
    found = embedded(Path("photos"), tmp_path / "set", "--skip-broken", "--parallel", "2")
    said = capsys.readouterr()
    listed = [line for line in said.err.splitlines() if line.startswith("  photos/003.png")]
    assert len(listed) == 1
    assert str(tmp_path) not in listed[0]
    assert found == embedded(broken, tmp_path / "alone" / "set", "--skip-broken")
    assert "left out 4 of 150 images" in said.out + said.err
    with pytest.raises(SystemExit):
        embedded(broken, tmp_path / "no", "--parallel", "2")
    assert "003.png" in capsys.readouterr().err


PLAN = {
    "against": ["CLIP"],
    "settings": {"epochs": 2, "d_model": 8, "heads": 2, "device": "cpu", "negatives": 10, "features": "embeddings"},
    "rows": {"listnet": {"loss": "listnet"}, "ranknet": {"loss": "ranknet"}, "CCA": {"scorer": "cca"}},
    "seeds": 2,
}


def studied(data, out, *options):
    (plan := out.with_suffix(".yaml")).write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    verb = ["study", plan, "--data", data, "--direction", "t2i", "--out", out, "--mlruns", out.with_name("mlruns")]
    call(*verb, *options)
    return (out / "table.csv").read_text(encoding="utf-8")


@each_way
def test_studies_are_the_same(how, data, tmp_path, capsys):
    table = studied(data, tmp_path / "parts", "--parallel", how)
    assert "6 of 6" in capsys.readouterr().err
    assert table == studied(data, tmp_path / "alone")
    assert studied(data, tmp_path / "parts", "--parallel", how) == table
    assert capsys.readouterr().err.count("(kept)") == 6


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    quick = ["--loss", "listnet", "--direction", "t2i", "--set", "epochs=1", "--set", "negatives=10"]
    call("train", "--data", data, *quick, "--out", folder / "run", "--mlruns", folder / "mlruns")
    return folder / "run"


def judged(run, data, out, *options):
    call("evaluate", run, "--data", data, "--json", out, *options)
    return out.read_text(encoding="utf-8")


@each_way
def test_judgements_are_the_same(how, run, data, tmp_path, small_parts):
    assert judged(run, data, tmp_path / "parts.json", "--parallel", how) == judged(run, data, tmp_path / "alone.json")


def test_a_machine_that_fails_while_lists_are_mined_changes_nothing(failing, data, tmp_path, small_parts):
    words = ["--direction", "i2t", "--pool", "all"]
    call("mine", data, *words, "--parallel", "ray", "--out", tmp_path / "parts.parquet")
    assert failing
    call("mine", data, *words, "--out", tmp_path / "alone.parquet")
    assert digest(tmp_path / "alone.parquet") == digest(tmp_path / "parts.parquet")


def test_a_machine_that_fails_while_images_are_embedded_changes_nothing(failing, photos, tmp_path, small_parts):
    found = embedded(photos, tmp_path / "set", "--parallel", "ray")
    assert failing
    assert found == embedded(photos, tmp_path / "alone" / "set")


def test_a_machine_that_fails_while_tokens_are_made_changes_nothing(failing, photos, tmp_path, small_parts):
    embedded(photos, tmp_path / "alone" / "set", "--tokens", "values")
    embedded(photos, tmp_path / "set")
    embedded(photos, tmp_path / "set", "--tokens", "values", "--parallel", "ray")
    assert failing
    for name in (IMAGE, TEXT, OFFSETS):
        assert digest(tmp_path / "set" / name) == digest(tmp_path / "alone" / "set" / name)


def test_a_machine_that_fails_while_a_study_runs_changes_nothing(failing, data, tmp_path):
    table = studied(data, tmp_path / "parts", "--parallel", "ray")
    assert failing
    assert table == studied(data, tmp_path / "alone")


def test_a_machine_that_fails_while_a_run_is_judged_changes_nothing(failing, run, data, tmp_path, small_parts):
    found = judged(run, data, tmp_path / "parts.json", "--parallel", "ray")
    assert failing
    assert found == judged(run, data, tmp_path / "alone.json")


@each_way
def test_a_trial_that_fails_is_told_and_the_others_are_kept(how, data, tmp_path, capsys):
    rows = {"good": {"scorer": "cca"}, "bad": {"scorer": "remote", "url": "http://127.0.0.1:9/"}}
    (plan := tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "rows": rows, "seeds": 1, "settings": {}}))
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, ["study", plan, "--data", data, "--direction", "t2i", "--out", tmp_path / "out",
                            "--mlruns", tmp_path / "mlruns", "--parallel", how])))  # fmt: skip
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert "the row bad:" in said
    assert len(list((tmp_path / "out" / "trials").glob("*.parquet"))) == 1
