"""Nothing of a user's text acts on the terminal, whichever way it leaves."""

import json
import re
import shutil

import pandas as pd
import pytest
from rich.table import Table

from experiments.cli import terminal
from rank_xmodal.data.embedding_set import EmbeddingSet

ODD = "a\x1b]0;gone\x07\x1b[2J\b\r\x9b31m\u202e[red]:smile:"
SHOWN = r"a\x1b]0;gone\x07\x1b[2J\x08\x0d\x9b31m\u202e[red]:smile:"
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def printed(capfd):
    """Return a function to what was printed since, both streams, checked."""

    def read():
        found = capfd.readouterr()
        text = found.out + found.err
        assert not ACTING.search(text), repr(text)
        return text

    return read


def test_lines_and_tables_hold_text_alone(printed):
    terminal.echo(f"{ODD}\n\tb")
    terminal.echo(ODD, err=True, nl=False)
    table = Table(ODD, title=ODD, caption=ODD)
    table.add_row(ODD)
    terminal.console().print(table)
    text = printed()
    assert text.count(SHOWN) == 6
    assert f"{SHOWN}\n\tb\n" in text


def test_a_byte_of_a_path_that_is_no_character_is_printed_too(printed):
    terminal.echo("caf\udce9.png")
    assert printed() == "caf\\udce9.png\n"


@pytest.fixture(scope="module")
def odd_set(random_set, tmp_path_factory):
    """Return the folder of a set whose ids, captions, classes, paths and name would all act on a terminal."""
    data = random_set(["train"] * 40 + ["val"] * 10 + ["test"] * 20)
    data.images["image_id"] = [f"{ODD}\n{k}" for k in range(70)]
    data.images["path"] = data.texts["text"] = [f"{ODD}{k}" for k in range(70)]
    data.texts["text_id"] = [f"{ODD}{k}" for k in range(70)]
    data.images["labels"] = data.texts["labels"] = [f"{ODD}{k % 2}" for k in range(70)]
    data.meta.update({"name": ODD, "encoder": ODD, "pretrained": ODD})
    return data.write(tmp_path_factory.mktemp("odd") / f"set{ODD.replace('/', '')}").root


def test_the_verbs_on_a_set_full_of_escapes(run, odd_set, tmp_path, printed):
    out = tmp_path / f"run{ODD}"
    run("train", "--data", odd_set, "--direction", "t2i", "--scorer", "vsepp", "--set", "epochs=1", "--set",
        "device=cpu", "--out", out, "--mlruns", tmp_path / "mlruns")  # fmt: skip
    assert SHOWN in printed()
    for arguments in (
        ("evaluate", out, "--data", odd_set), ("compare", out), ("report", out, "--data", odd_set),
        ("export", out, "--data", odd_set, "--format", "trec", "--out", tmp_path / "trec"),
        *(("compare", out, "--format", style) for style in ("csv", "markdown", "latex")),
        ("mine", odd_set, "--direction", "t2i", "--negatives", 3, "--pool", "all"),
    ):  # fmt: skip
        run(*arguments)
        assert printed()
    card = (out / "README.md").read_text()
    assert not ACTING.search(card)
    assert r"on a\\x1b\]0;gone" in card


def test_messages_on_what_a_user_can_mend(run, odd_set, tmp_path, printed):
    broken = tmp_path / "broken"
    shutil.copytree(odd_set, broken)
    texts = pd.read_parquet(broken / "texts.parquet")
    texts.assign(labels=[f"{ODD}||"] * 70).to_parquet(broken / "texts.parquet", index=False)
    (tmp_path / "c.csv").write_text(f'image,caption,split\n"{ODD}",x,"{ODD}"\n', encoding="utf-8")
    (tmp_path / "d.csv").write_text(f'image,"cap{ODD}"\n', encoding="utf-8")
    embed = ("embed", "--dataset", "folder", "--root", tmp_path, "--model", "scenes-clip", "--pretrained", "scenes",
             "--out", tmp_path / "new")  # fmt: skip
    for arguments in (
        ("mine", broken, "--direction", "t2i"), ("mine", tmp_path / ODD, "--direction", "t2i"),
        ("evaluate", tmp_path / ODD, "--data", odd_set), ("verify", "coco", "--data", odd_set),
        (*embed, "--captions", tmp_path / "c.csv"), (*embed, "--captions", tmp_path / "d.csv"),
        ("mine", odd_set, "--direction", ODD), (ODD,), ("train", f"--{ODD}"), ("mine", odd_set, "--pool", ODD),
    ):  # fmt: skip
        run(*arguments, code=2)
        assert "gone" in printed(), arguments
    assert not (tmp_path / "new").exists()


def test_search_prints_a_line_a_hit(run, tmp_path, place, printed):
    data = EmbeddingSet.open(place / "data")
    rows = range(len(data.images))
    odd = data.images.assign(image_id=[f"{ODD}\n{k}" for k in rows], path=[f"{ODD}\n{k}" for k in rows])
    EmbeddingSet(data.image_emb, data.text_emb, odd, data.texts, data.relevance, data.meta).write(tmp_path / "data")
    run("train", "--data", tmp_path / "data", "--direction", "t2i", "--scorer", "centred", "--no-tracking",
        "--set", "device=cpu", "--out", tmp_path / "run")  # fmt: skip
    printed()
    run("search", tmp_path / "run", "--data", tmp_path / "data", "--text", "a star", "-k", 3)
    lines = printed().splitlines()
    assert len([line for line in lines if "cosine" in line]) == len(lines) == 3
    for line in lines:
        assert rf"{SHOWN}\x0a" in line
        json.loads(line[line.index('"') :].replace(r"\x", r"\\x").replace(r"\u202e", "")), "a path is quoted"
