"""Files: YAML as people write it, and what kills, full disks, links and endless files do."""

import errno
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.files import (
    locked,
    open_npy,
    read_json,
    read_parquet,
    read_table,
    read_yaml,
    replacing,
    write_json,
    write_text,
    writing,
)
from rank_xmodal.files.tensors import read_tensors, read_told, write_tensors


def test_on_is_a_word_and_not_a_truth(tmp_path):
    """YAML 1.1 takes on, off, yes and no for truth values; one of our settings is called `on`."""
    (tmp_path / "s.yaml").write_text("scorer: csls\non: vsepp\n")
    assert read_yaml(tmp_path / "s.yaml") == {"scorer": "csls", "on": "vsepp"}
    assert scorers.read(tmp_path / "s.yaml", ["on=cca"]).on == "cca"
    (tmp_path / "s.yaml").write_text("refit: false\ncalibrate: true\nlr: 1e-3\n")
    settings = scorers.read(tmp_path / "s.yaml", ["lr=1e-4"])
    assert (settings.refit, settings.calibrate, settings.lr) == (False, True, 1e-4)


@pytest.mark.parametrize(("text", "said"), [("- a", "found a list"), ("a: [", "not valid YAML")])
def test_what_is_no_mapping_is_refused(tmp_path, text, said):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "s.yaml")
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_the_papers_recipe_looks_at_no_base():
    with pytest.raises(UserError, match="context_aware doesn't look at the score of what it stands on"):
        scorers.parse({"features": "concat", "on": "vsepp"})
    assert scorers.parse({"on": "vsepp"}).on == "vsepp"


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system [ls]", "the tag .*os.system is none of str"),
        ("a: !!binary aGk=", "the tag"),
        ("a: !!set {x}", "the tag"),
        ("1: b", "the key '1' is no word"),
        ("? [a]\n: b", "is no word"),
        ("a: &x [*x]", "an alias inside"),
        (BOMB, "more than 100,000 values"),
        ("a: " + "[" * 5_000, "not valid YAML"),
        ("a: " + "9" * 5_000, "not valid YAML"),
        ("a: b\na: c", "line 1: 'a' stands twice"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_more_than_plain(tmp_path, text, said):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "s.yaml")


def test_yaml_dates_are_words_and_aliases_work(tmp_path):
    (tmp_path / "s.yaml").write_text("a: &x {day: 2020-01-01}\nb: *x\nc:\n  <<: *x\n  e: 1\n")
    day = {"day": "2020-01-01"}
    assert read_yaml(tmp_path / "s.yaml") == {"a": day, "b": day, "c": {**day, "e": 1}}


def test_what_is_no_file(tmp_path):
    (tmp_path / "link").symlink_to("link")
    for read in (read_yaml, read_json, read_parquet):
        with pytest.raises(UserError, match="is a folder"):
            read(tmp_path)
        with pytest.raises(UserError, match="symbolic links"):
            read(tmp_path / "link")
    with pytest.raises(UserError, match="longer than 1,048,576 bytes"):
        read_yaml("/dev/full" if os.path.exists("/dev/full") else "/dev/zero")
    (tmp_path / "bad.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "bad.json")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_missing_permission_is_no_missing_file(tmp_path):
    (tmp_path / "s.yaml").write_text("a: 1")
    (tmp_path / "s.yaml").chmod(0)
    with pytest.raises(UserError, match="permission denied"):
        read_yaml(tmp_path / "s.yaml")


def npy(header, version=b"\x01\x00"):
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        npy(b"{'descr': '<f2', 'fortran_order': False, 'shape': (99999999999999999999999, 2), }"),
        npy(b"{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 2), }"),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"),
        npy(b"{'descr': [('a'], 'fortran_order': False"),
        npy(b"(" * 900),
        npy(b"{1: 2, 'x': []}"),
        npy(b"{'descr': (('<f2', 9**9), 'x'), 'fortran_order': False, 'shape': (2, 2), }"),
        npy(b"\xff\xfe'''"),
        b"PK\x03\x04" + bytes(30),
        b"\x80\x04]q",
        b"",
    ],
)
def test_npy_headers_of_all_kinds(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"a.npy: (not a plain|an archive).*Make it again"):
        open_npy(tmp_path / "a.npy", "Make it again.")


def test_parquet_columns_hold_what_they_should(tmp_path):
    path = tmp_path / "a.parquet"
    for values, said in (([1.5], "holds double"), ([300], "beyond uint8"), ([b"x"], "holds binary")):
        pd.DataFrame({"a": values}).to_parquet(path)
        with pytest.raises(UserError, match=said):
            read_table(path, {"a": "uint8"}, "things")
    pd.DataFrame({"a": [{"x": 1}]}).to_parquet(path)
    with pytest.raises(UserError, match="holds struct"):
        read_table(path, {"a": "str"}, "things")


def dead(name, kind):
    """Return the name of what a process that is no more left behind."""
    return f".{name}.{writing._HOST}-4194305-aaaaaa.{kind}"


def test_what_dead_processes_left_is_removed_and_put_back(tmp_path):
    (tmp_path / dead("a", "part")).mkdir()
    (tmp_path / dead("a", "part") / "x").write_text("x")
    (tmp_path / dead("b", "part")).write_text("x")
    (tmp_path / dead("c", "old")).write_text("c")
    (tmp_path / "d").write_text("d")
    (tmp_path / dead("d", "old")).write_text("older")
    other = f".e.{writing._HOST}-1-aaaaaa.part"  # process 1 lives
    (tmp_path / other).write_text("e")
    earlier = f".f.{writing._HOST}-{os.getpid()}-aaaaaa.part"  # our number, another life
    (tmp_path / earlier).write_text("f")
    write_text(tmp_path / "z", "z")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["c", "d", "z", other])
    assert (tmp_path / "d").read_text() == "d"
    assert (tmp_path / "c").read_text() == "c"


def test_another_machines_are_left_for_a_day(tmp_path):
    young, old = tmp_path / ".a.ffffff-7-aaaaaa.part", tmp_path / ".b.ffffff-7-aaaaaa.part"
    for path in (young, old):
        path.write_text("x")
    os.utime(old, (1, 1))
    write_text(tmp_path / "z", "z")
    assert young.exists()
    assert not old.exists()


def test_a_folder_lost_amid_a_swap_of_another_machine_comes_back(tmp_path, monkeypatch):
    (tmp_path / ".set.ffffff-7-aaaaaa.old").mkdir()
    writing.recover(tmp_path)
    assert not (tmp_path / "set").exists(), "it may be at it right now"
    monkeypatch.setattr(writing, "_MINUTE", -1.0)
    writing.recover(tmp_path)
    assert (tmp_path / "set").is_dir()


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="no Linux")
def test_processes_of_another_container_are_not_asked_for(tmp_path):
    """There our numbers mean nothing: each of our processes would look dead."""
    code = f"import pathlib, rank_xmodal.files as f; f.write_text(pathlib.Path({str(tmp_path)!r}) / 'b', '')"
    with replacing(tmp_path / "a") as part:
        part.write_text("a")
        ended = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code])
        if ended.returncode:
            pytest.skip("may not make a container")
    assert (tmp_path / "a").read_text() == "a"


def test_a_link_is_written_through(tmp_path):
    real = tmp_path / "disk" / "real"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    with replacing(tmp_path / "link") as part:
        assert part.parent == tmp_path / "disk"
        part.mkdir()
        (part / "x").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (real / "x").read_text() == "x"
    (tmp_path / "new").symlink_to(tmp_path / "disk" / "none-yet")
    write_text(tmp_path / "new", "y")
    assert (tmp_path / "disk" / "none-yet").read_text() == "y"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError("524288 requested and 16 written"), "the disk is full"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EIO, "Input/output error"), r"can't be written \(Input/output error\)"),
        (PermissionError(errno.EACCES, "Permission denied"), r"can't be written \(Permission denied\)"),
    ],
)
def test_what_writers_throw_is_said_and_nothing_is_left(tmp_path, error, said):
    write_text(tmp_path / "a", "before")
    with pytest.raises(UserError, match=said), replacing(tmp_path / "a") as part:
        part.write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a"):
        raise ZeroDivisionError  # whatever isn't about files passes


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_numpys_words_for_a_full_disk():
    with pytest.raises(UserError, match="the disk is full"), writing.telling("/x"):
        np.arange(99_999).tofile("/dev/full")


def test_weights_are_readable_like_their_neighbours(tmp_path):
    write_tensors(tmp_path / "w.safetensors", {"a": torch.eye(2)}, {"x": "y"})
    write_json(tmp_path / "c.json", {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "c.json").stat().st_mode
    assert read_told(tmp_path / "w.safetensors") == {"x": "y"}
    assert torch.equal(read_tensors(tmp_path / "w.safetensors")["a"], torch.eye(2))
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-3])
    for read in (read_tensors, read_told):
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read(tmp_path / "w.safetensors")
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "none")


def test_one_process_at_a_time(tmp_path):
    code = (
        "from pathlib import Path; from rank_xmodal.files import locked\n"
        f"with locked(Path({str(tmp_path)!r}), 'training'): pass"
    )
    with locked(tmp_path, "training"):
        with pytest.raises(UserError, match="another process is training"), locked(tmp_path, "training"):
            pass
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another process is training" in ended.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
