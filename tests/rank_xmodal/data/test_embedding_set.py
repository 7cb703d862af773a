"""Embedding sets, candidate lists and the files beneath them: what is written comes back, what is broken is named."""

import errno
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, replacing, write_json, writing


def small(**changes):
    parts = {
        "image_emb": np.eye(3, 4, dtype=np.float16),
        "text_emb": np.eye(4, dtype=np.float16),
        "images": pd.DataFrame({"image_id": ["a", "b", "c"], "path": "", "split": ["train", "train", "test"]}),
        "texts": pd.DataFrame(
            {"text_id": list("wxyz"), "text": ["one", "two", "three", "four"], "split": ["train"] * 3 + ["test"]}
        ),
        "relevance": pd.DataFrame({"image": [0, 0, 1, 2, 1], "text": [0, 1, 2, 3, 1], "grade": [1, 2, 1, 1, 1]}),
    }
    return EmbeddingSet(**{**parts, **changes})


def with_row(emb, row, value):
    emb = emb.copy()
    emb[row] = value
    return emb


def test_a_set_survives_the_disk(tmp_path):
    opened = small().write(tmp_path / "set")
    again = EmbeddingSet.open(tmp_path / "set")
    np.testing.assert_array_equal(again.image_emb, small().image_emb)
    assert isinstance(again.image_emb, np.memmap)
    assert again.fingerprint == opened.fingerprint
    assert again.meta["counts"] == {"test": {"images": 1, "texts": 1}, "train": {"images": 2, "texts": 3}}
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == [
        "image_emb.npy", "images.parquet", "meta.json", "relevance.parquet", "text_emb.npy", "texts.parquet"
    ]  # fmt: skip
    assert pd.read_parquet(tmp_path / "set" / "texts.parquet")["text"].tolist() == ["one", "two", "three", "four"]


def test_the_fingerprint_follows_the_contents_not_the_place(tmp_path):
    base = small().write(tmp_path / "a").fingerprint
    assert small().write(tmp_path / "b").fingerprint == base
    changed = [
        small(image_emb=with_row(small().image_emb, 0, [0, 0, 0, 1])),
        small(texts=small().texts.assign(text=["one", "two", "three", "five"])),
        small(images=small().images.assign(image_id=["a", "b", "d"])),
        small(relevance=small().relevance.assign(grade=1)),
        small(images=small().images.assign(split=["train", "val", "test"])),
    ]
    assert len({base, *(s.write(tmp_path / f"c{i}").fingerprint for i, s in enumerate(changed))}) == 6


def labelled(images=("cat", "dog", "cat|dog"), texts=("cat", "cat", "dog", "cat|dog"), **changes):
    return small(images=small().images.assign(labels=images), texts=small().texts.assign(labels=texts), **changes)


def test_labels_survive_the_disk_and_a_set_without_them_is_as_ever(tmp_path):
    labelled().write(tmp_path / "set")
    again = EmbeddingSet.open(tmp_path / "set")
    assert again.labelled
    assert again.images["labels"].tolist() == ["cat", "dog", "cat|dog"]
    assert again.texts["labels"].tolist() == ["cat", "cat", "dog", "cat|dog"]
    assert again.classes == ["cat", "dog"]
    plain = small().write(tmp_path / "plain")
    assert not plain.labelled
    assert pd.read_parquet(tmp_path / "plain" / "images.parquet").columns.tolist() == ["image_id", "path", "split"]
    assert pd.read_parquet(tmp_path / "plain" / "texts.parquet").columns.tolist() == ["text_id", "text", "split"]


def test_lists_outlive_new_labels_but_class_figures_do_not(tmp_path):
    first, second = labelled().write(tmp_path / "a"), labelled(images=("cat", "dog", "dog")).write(tmp_path / "b")
    assert first.fingerprint == second.fingerprint == small().write(tmp_path / "c").fingerprint
    assert first.labels_fingerprint != second.labels_fingerprint
    assert first.labels_fingerprint == labelled().labels_fingerprint


@pytest.mark.parametrize("value", ["", None, np.nan, "a||b", " a", 3])
def test_an_item_without_a_class_is_named(value, tmp_path):
    bad = labelled(images=("cat", value, "dog"))
    with pytest.raises(UserError, match=r"image row 1 \(image_id 'b'\) has the labels .* Name its class"):
        bad.write(tmp_path / "set")


def test_an_item_that_is_never_used_needs_no_class(tmp_path):
    data = labelled(images=("cat", "", "dog"))
    images = data.images.assign(split=["train", "none", "test"])
    assert small(images=images, texts=data.texts).write(tmp_path / "set").labelled


def test_labels_broken_on_disk_are_named(tmp_path):
    place = tmp_path / "set"
    labelled().write(place)
    frame = pd.read_parquet(place / "texts.parquet")
    for labels in ([["cat"], ["cat"], ["dog"], ["dog"]], ["cat", None, "dog", "dog"]):
        frame.assign(labels=labels).to_parquet(place / "texts.parquet")
        with pytest.raises(UserError, match=r"text row [01] .* has the labels"):
            EmbeddingSet.open(place)
    frame.drop(columns="labels").to_parquet(place / "texts.parquet")
    with pytest.raises(UserError, match=r"images\.parquet has a column 'labels', texts\.parquet has none\. Label both"):
        EmbeddingSet.open(place)


def test_relevance_in_both_directions():
    data = small()
    assert data.query_rows("t2i", "train").tolist() == [0, 1, 2]
    assert data.candidate_rows("i2t", "train").tolist() == [0, 1, 2]
    grades = data.grades("t2i", np.array([1, 3]), np.array([[0, 1, 2], [2, -1, 0]]))
    assert grades.tolist() == [[2, 1, 0], [1, -1, 0]]
    assert data.grades("i2t", np.array([1]), np.array([[0, 1, 2, 3]])).tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_emb": with_row(small().image_emb, 1, np.nan)}, r"image embedding in row 1 \(image_id 'b'\) is NaN"),
        ({"text_emb": with_row(small().text_emb, 2, 0)}, r"text embedding in row 2 \(text_id 'y'\) is zero"),
        ({"text_emb": with_row(small().text_emb, 3, 0.7)}, "row 3 .* of length 1.4"),
        ({"image_emb": np.eye(3, 5, dtype=np.float16)}, "images are 5 wide, texts 4"),
        ({"image_emb": np.eye(2, 4, dtype=np.float16)}, "2 image embeddings but 3 rows"),
        ({"images": small().images.assign(image_id=["a", "b", "a"])}, "image_id 'a' stands in rows 0 and 2"),
        ({"texts": small().texts.assign(text=["one", "two", " ", "x"])}, "text row 2 .*'y'.* empty caption"),
        ({"relevance": pd.DataFrame({"image": [7], "text": [0], "grade": [1]})}, "relevance row 0 names image row 7"),
        ({"relevance": small().relevance.iloc[[0, 0]]}, "repeats the pair"),
        ({"relevance": small().relevance.iloc[:0]}, "at least one pair"),
        ({"relevance": small().relevance.assign(grade=200)}, "grade 200; use 1 to 127"),
    ],
)
def test_a_bad_set_is_not_written(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        small(**changes).write(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_what_is_broken_on_disk_is_named(tmp_path):
    place = tmp_path / "set"
    small().write(place)
    whole = {p.name: p.read_bytes() for p in place.iterdir()}
    for name, contents, message in (
        ("meta.json", b"{", "meta.json: not valid JSON"),
        ("meta.json", json.dumps({"format": 9}).encode(), "format 9; this version reads format 1"),
        ("image_emb.npy", whole["image_emb.npy"][:-5], "image_emb.npy: not a plain .npy"),
        ("text_emb.npy", None, "text_emb.npy: no such file"),
        ("texts.parquet", whole["texts.parquet"][:40], "texts.parquet: not a readable Parquet"),
        ("images.parquet", whole["texts.parquet"], "images need one column 'image_id'"),
    ):
        if contents is None:
            (place / name).unlink()
        else:
            (place / name).write_bytes(contents)
        with pytest.raises(UserError, match=message):
            EmbeddingSet.open(place)
        (place / name).write_bytes(whole[name])
    EmbeddingSet.open(place)
    np.save(place / "image_emb.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a plain \.npy"):
        EmbeddingSet.open(place)
    with pytest.raises(UserError, match="no such folder"):
        EmbeddingSet.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"split 'val' is empty \(splits found: test, train\)"):
        small().candidate_rows("t2i", "val")
    with pytest.raises(UserError, match="direction='x'"):
        check_direction("x")


# --- candidate lists ---


def lists(**changes):
    parts = {
        "query": np.array([0, 2], np.int32),
        "candidates": np.array([[0, 1, 2], [1, 0, -1]], np.int32),
        "labels": np.array([[1, 0, 0], [1, 0, -1]], np.int8),
        "cosine": np.array([[0.5, 0.25, 0.1], [0.4, 0.2, 0.0]], np.float32),
        "info": {"direction": "t2i", "split": "train", "protocol": "clean", "fingerprint": "f" * 64},
    }
    return CandidateLists(**{**parts, **changes})


def test_lists_survive_the_disk_and_pandas_reads_them(tmp_path):
    lists().write(tmp_path / "l.parquet")
    again = CandidateLists.read(tmp_path / "l.parquet")
    for name in ("query", "candidates", "labels", "cosine"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lists(), name))
        assert getattr(again, name).dtype == getattr(lists(), name).dtype
    assert again.info == lists().info
    frame = pd.read_parquet(tmp_path / "l.parquet")
    assert frame["candidates"][1].tolist() == [1, 0, -1]


def test_lists_of_several_shards_survive_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("rank_xmodal.data.candidate_lists._SHARD", 12)
    rng = np.random.default_rng(0)
    many = lists(
        query=np.arange(11, dtype=np.int32), candidates=rng.integers(0, 99, (11, 3), dtype=np.int32),
        labels=rng.integers(0, 2, (11, 3), dtype=np.int8), cosine=rng.random((11, 3), dtype=np.float32),
    )  # fmt: skip
    many.write(tmp_path / "l.parquet")
    assert pq.ParquetFile(tmp_path / "l.parquet").num_row_groups == 3
    assert CandidateLists.read(tmp_path / "l.parquet").digest == many.digest
    pq.write_table(pq.read_table(tmp_path / "l.parquet"), tmp_path / "one.parquet")  # as earlier versions did
    monkeypatch.setattr("rank_xmodal.data.candidate_lists._LISTS", 4)
    assert pq.ParquetFile(tmp_path / "one.parquet").num_row_groups == 1
    assert CandidateLists.read(tmp_path / "one.parquet").digest == many.digest


def test_a_list_of_another_length_is_named_in_whatever_shard_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("rank_xmodal.data.candidate_lists._SHARD", 6)
    place = tmp_path / "l.parquet"
    lists().write(place)
    table = pq.read_table(place)
    frame = pd.concat([table.to_pandas()] * 3, ignore_index=True)
    frame.at[5, "labels"] = np.array([1, 0], np.int8)
    pq.write_table(pa.Table.from_pandas(frame, table.schema, preserve_index=False), place)
    monkeypatch.setattr("rank_xmodal.data.candidate_lists._LISTS", 2)
    with pytest.raises(UserError, match="row 5 has 2 labels, row 0 has 3"):
        CandidateLists.read(place)
    frame.at[5, "labels"] = None
    pq.write_table(pa.Table.from_pandas(frame, table.schema, preserve_index=False), place)
    with pytest.raises(UserError, match="labels has 1 gaps"):
        CandidateLists.read(place)
    pq.write_table(table.append_column("query", table["query"]), place)
    with pytest.raises(UserError, match="'query' stands twice"):
        CandidateLists.read(place)


def test_lists_take_their_own_memory_once_on_the_way_to_the_disk_and_back(tmp_path):
    """Written and read as a whole, 93 MB of lists took 240 and 502 MB; now 25 and, Arrow's own code included, 193."""
    script = f"""
import sys
import numpy as np
from rank_xmodal.data.candidate_lists import CandidateLists
def own(): return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1e3
rng = np.random.default_rng(0)
if sys.argv[1] == 'write':
    many = rng.random((200_000, 51), dtype=np.float32)
    rows = (many * 1e6).astype(np.int32)
    lists = CandidateLists(np.arange(200_000, dtype=np.int32), rows, (many > .9).astype(np.int8), many,
                           {{'direction': 't2i'}})
    before = own()
    lists.write({str(tmp_path / "l.parquet")!r})
else:
    before = own()
    lists = CandidateLists.read({str(tmp_path / "l.parquet")!r})
assert len(lists) == 200_000
print(own() - before)
"""
    beyond = {}
    for verb in ("write", "read"):
        done = subprocess.run([sys.executable, "-c", script, verb], capture_output=True, text=True, check=True)
        beyond[verb] = float(done.stdout)
    assert beyond["write"] < 70
    assert beyond["read"] < 270


def test_lists_too_large_for_memory_are_not_told_broken(tmp_path, monkeypatch):
    lists().write(tmp_path / "l.parquet")

    def full(*arguments, **options):
        raise MemoryError("Unable to allocate 46 GiB")

    monkeypatch.setattr("rank_xmodal.data.candidate_lists.np.empty", full)
    with pytest.raises(UserError, match=r"doesn't fit into memory .*46 GiB"):
        CandidateLists.read(tmp_path / "l.parquet")


def test_grades_are_the_same_looked_up_part_after_part(monkeypatch):
    data = small()
    rows, candidates = np.array([0, 1, 2, 0]), np.array([[0, 1, -1], [1, 2, 0], [2, -1, -1], [1, 0, 2]])
    whole = data.grades("t2i", rows, candidates)
    monkeypatch.setattr("rank_xmodal.data.embedding_set._LOOKED_UP", 6)
    np.testing.assert_array_equal(data.grades("t2i", rows, candidates), whole)
    assert (whole > 0).any()
    assert ((whole < 0) == (candidates < 0)).all()


def test_bad_lists_are_named(tmp_path):
    data = small().write(tmp_path / "set")
    place = tmp_path / "l.parquet"
    for changes, message in (
        ({}, f"embedding set ffffffffffff, but .* is {data.fingerprint[:12]}"),
        ({"labels": np.array([[1, 0, -1], [1, 0, -1]], np.int8)}, "row 0 pads candidates and labels at different"),
        ({"cosine": np.full((2, 3), np.nan, np.float32)}, "row 0 has a NaN cosine"),
        ({"candidates": np.array([[0, 1, 9], [1, 0, -1]], np.int32)}, "candidates holds row 9, but there are only 3"),
    ):
        info = {**lists().info, "fingerprint": data.fingerprint if changes else "f" * 64}
        lists(**{"info": info, **changes}).write(place)
        with pytest.raises(UserError, match=message):
            CandidateLists.read(place, data)
    place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(UserError, match="not a readable Parquet"):
        CandidateLists.read(place)
    pd.DataFrame({"query": [0], "candidates": [[0]], "labels": [[1]], "cosine": [[0.1]]}).to_parquet(place)
    with pytest.raises(UserError, match="no rank_xmodal metadata"):
        CandidateLists.read(place)


# --- files ---


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.json") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("kept")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "folder") as part:
        part.mkdir()
        (part / "half").write_text("half")
        raise ZeroDivisionError
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert (tmp_path / "folder" / "kept").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"]
    with replacing(tmp_path / "folder") as part:
        part.mkdir()
        (part / "new").write_text("new")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(number, tmp_path):
    with pytest.raises(UserError, match="the disk is full"), replacing(tmp_path / "a") as part:
        part.write_text("half")
        raise OSError(number, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"), replacing(tmp_path / "file" / "inside"):
        pass


def test_damaged_embeddings_are_noticed(tmp_path):
    place = tmp_path / "set"
    small().write(place)
    rows = np.load(place / "image_emb.npy")
    np.save(place / "image_emb.npy", rows[::-1].copy())  # each of length 1, and none where it belongs
    with pytest.raises(UserError, match="damaged, or changed by hand"):
        EmbeddingSet.open(place)
    rows[1, 0] = np.nan
    np.save(place / "image_emb.npy", rows)
    with pytest.raises(UserError, match="damaged, or changed by hand"):
        EmbeddingSet.open(place)
    small().write(place)
    meta = json.loads((place / "meta.json").read_text())
    del meta["fingerprint"]
    (place / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="damaged, or changed by hand"):
        EmbeddingSet.open(place)


def test_a_set_is_read_through_once_in_a_process(tmp_path, monkeypatch):
    place = tmp_path / "set"
    small().write(place)
    monkeypatch.setattr("rank_xmodal.data.embedding_set.fingerprint_of", None)
    assert EmbeddingSet.open(place).dim == small().dim


@pytest.mark.parametrize(("column", "value"), [("text", b"a"), ("split", None)])
def test_columns_of_something_else_are_refused(tmp_path, column, value):
    place = tmp_path / "set"
    frame = small().write(place).texts
    values = [value] * len(frame)
    frame.assign(**{column: pd.Series(values, dtype=object)}).to_parquet(place / "texts.parquet")
    with pytest.raises(UserError, match=f"texts.parquet: the column '{column}' of texts holds (binary|null)"):
        EmbeddingSet.open(place)


def test_a_set_whose_replacing_was_killed_comes_back(tmp_path):
    place = tmp_path / "set"
    small().write(place)
    place.rename(tmp_path / f".set.{writing._HOST}-4194305-aaaaaa.old")  # no process has such a number
    assert EmbeddingSet.open(place).dim == small().dim
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_paths_may_be_missing_and_ids_of_any_type(tmp_path):
    data = small()
    for path in (None, np.nan, ""):
        lost = replace(data, images=data.images.assign(path=path)).write(tmp_path / "set")
        assert set(lost.images["path"]) == {""}
    numbers = replace(data, images=data.images.assign(image_id=np.arange(len(data.images), dtype=np.float32)))
    assert numbers.write(tmp_path / "set").images["image_id"][1] == "1.0"
    # As an earlier version wrote it.
    written = data.write(tmp_path / "set").images
    written.assign(path=None, split=written["split"].astype("category")).to_parquet(tmp_path / "set" / "images.parquet")
    assert EmbeddingSet.open(tmp_path / "set").images["split"].tolist() == data.images["split"].tolist()


@pytest.mark.parametrize(("column", "value", "said"), [
    ("split", None, "row 0 has no value"), ("text", "a \ud83d", "row 0 holds .* no Unicode text"),
    ("text_id", np.nan, "row 0 has no value"),
])  # fmt: skip
def test_what_could_not_be_read_again_replaces_nothing(tmp_path, column, value, said):
    good = small().write(tmp_path / "set")
    values = good.texts[column].tolist()
    with pytest.raises(UserError, match=f"texts.{column}: {said}"):
        replace(good, texts=good.texts.assign(**{column: pd.Series([value, *values[1:]], dtype=object)})).write(
            tmp_path / "set"
        )
    assert EmbeddingSet.open(tmp_path / "set").fingerprint == good.fingerprint
