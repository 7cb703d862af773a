import shutil

import numpy as np
import pandas as pd
import pytest

from data_prep.importing import import_embeddings
from data_prep.importing_clip_retrieval import import_clip_retrieval
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError

TABLE = """caption_id,image_id,caption,split,source
c0,0,a dog,train,dog.jpg
c1,0,the dog,train,dog.jpg
c2,2,a cat,test,cat.jpg
c3,3,a bird,dev,
"""


@pytest.fixture
def made(tmp_path):
    """Paths of A.npy (5, 8), B.npy (4, 8) and C.csv: image 1 and image 4 have no caption."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "A.npy", rng.normal(size=(5, 8)) * 7)
    np.save(tmp_path / "B.npy", rng.normal(size=(4, 8)).astype(np.float32))
    (tmp_path / "C.csv").write_text(TABLE)
    return [tmp_path / "A.npy", tmp_path / "B.npy", tmp_path / "C.csv"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_cosines_survive(made, tmp_path, said, dtype):
    a, b = np.load(made[0]).astype(dtype), np.load(made[1]).astype(dtype)
    np.save(made[0], a)
    np.save(made[1], b)
    import_embeddings(*made, tmp_path / "set", name="mine", say=said)
    data = EmbeddingSet.open(tmp_path / "set")
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosine = (b @ a.T) / np.linalg.norm(b, axis=1)[:, None] / np.linalg.norm(a, axis=1)
    got = data.text_emb.astype(np.float32) @ data.image_emb.astype(np.float32).T
    assert np.abs(got - cosine).max() < 2e-3
    assert data.name == "mine"
    assert data.images["image_id"].tolist() == ["0", "1", "2", "3", "4"]
    assert data.images["split"].tolist() == ["train", "none", "test", "val", "none"]
    assert data.images["path"].tolist() == ["dog.jpg", "", "cat.jpg", "", ""]
    assert data.texts["text_id"].tolist() == ["c0", "c1", "c2", "c3"]
    assert data.relevance["image"].tolist() == [0, 0, 2, 3]
    assert data.meta["encoder"] is None
    assert "2 of 5 images have no caption" in said


def test_huge_and_tiny_numbers(made, tmp_path, said):
    a = np.load(made[0])
    np.save(made[0], a * 1e200)
    np.save(made[1], np.load(made[1]) * np.float32(1e-30))
    data = import_embeddings(*made, tmp_path / "set", say=said)
    expected = a / np.linalg.norm(a, axis=1)[:, None]
    assert np.abs(data.image_emb - expected).max() < 1e-3


def test_parquet_table(made, tmp_path, said):
    frame = pd.read_csv(made[2])
    frame.to_parquet(tmp_path / "C.parquet")
    data = import_embeddings(made[0], made[1], tmp_path / "C.parquet", tmp_path / "set", say=said)
    assert data.relevance["image"].tolist() == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("c1,0", "c1,5", r"C\.csv, line 3: image_id 5 is out of range; .*A\.npy has rows 0 to 4"),
        ("c1,0", "c1,-1", r"C\.csv, line 3: image_id '-1' must be a row"),
        ("c1,0", "c1,x.jpg", r"C\.csv, line 3: image_id 'x\.jpg' must be a row of .*A\.npy"),
        ("c1,0", "c1,1.5", r"line 3: image_id '1\.5'"),
        ("c1,0", "c1,", r"line 3: image_id ''"),
        ("c1,0", "c0,0", r"line 3: caption_id 'c0' stands already in line 2"),
        ("the dog,train", "the dog,holdout", r"line 3: split 'holdout' must be"),
        ("the dog,train", "the dog,test", r"line 3: image 0 is in split 'test' here and in 'train' in line 2"),
        ("caption_id,", "id,", r"no column 'caption_id'"),
        ("c3,3,a bird,dev,\n", "", r"B\.npy has 4 rows and .*C\.csv has 3 captions"),
    ],
)
def test_bad_tables(made, tmp_path, old, new, message):
    assert old in TABLE
    made[2].write_text(TABLE.replace(old, new))
    with pytest.raises(UserError, match=message):
        import_embeddings(*made, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def labelled(*labels):
    lines = TABLE.splitlines()
    return "\n".join(f"{line},{value}" for line, value in zip(lines, ["labels", *labels], strict=True)) + "\n"


def test_labels(made, tmp_path, said):
    made[2].write_text(labelled("animal", "animal", "pet|animal", "animal|pet"))
    data = import_embeddings(*made, tmp_path / "set", say=said)
    assert data.images["labels"].tolist() == ["animal", "", "animal|pet", "animal|pet", ""]
    assert data.texts["labels"].tolist() == ["animal", "animal", "animal|pet", "animal|pet"]
    assert data.classes == ["animal", "pet"]


def test_bad_labels(made, tmp_path):
    for labels, message in (
        (("a", "a", "", "b"), r"C\.csv, line 4: labels is empty"),
        (("a", "b", "a", "b"), r"C\.csv, line 3: image 0 has labels 'b' here and 'a' in line 2"),
    ):
        made[2].write_text(labelled(*labels))
        with pytest.raises(UserError, match=message):
            import_embeddings(*made, tmp_path / "set")
        assert not (tmp_path / "set").exists()


def zero(a):
    a[2] = 0
    return a


def nan(a):
    a[3, 1] = np.nan
    return a


def infinite(a):
    a[1, 1] = np.inf
    return a


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (zero, r"A\.npy, row 2: the embedding is zero"),
        (nan, r"A\.npy, row 3: the embedding is NaN or infinite"),
        (infinite, r"A\.npy, row 1: the embedding is NaN"),
        (lambda a: a[:, :7], r"A\.npy is 7 wide, .*B\.npy is 8 wide"),
        (lambda a: a[0], r"A\.npy: expected one \(n, d\) array of floats, found \(8,\)"),
        (lambda a: a.astype(int), r"found \(5, 8\) int64"),
        (lambda a: a[:0], r"A\.npy: the array is empty"),
        (lambda a: a.astype(object), r"A\.npy: not a plain \.npy array"),
    ],
)
def test_bad_arrays(made, tmp_path, change, message):
    np.save(made[0], change(np.load(made[0])), allow_pickle=True)
    with pytest.raises(UserError, match=message):
        import_embeddings(*made, tmp_path / "set")


class Trap:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_nothing_is_ever_unpickled(made, tmp_path):
    np.save(made[1], np.array([Trap(tmp_path / "it-ran")], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"B\.npy: not a plain"):
        import_embeddings(*made, tmp_path / "set")
    assert not (tmp_path / "it-ran").exists()


def test_broken_missing_and_archived_arrays(made, tmp_path):
    whole = made[0].read_bytes()
    for content in (whole[:-9], whole[:20], b"", b"hello"):
        made[0].write_bytes(content)
        with pytest.raises(UserError, match=r"A\.npy: not a plain \.npy array"):
            import_embeddings(*made, tmp_path / "set")
    with made[0].open("wb") as handle:
        np.savez(handle, x=np.zeros(3))
    with pytest.raises(UserError, match=r"A\.npy: .*an archive of several arrays"):
        import_embeddings(*made, tmp_path / "set")
    made[0].unlink()
    with pytest.raises(UserError, match=r"A\.npy: no such file"):
        import_embeddings(*made, tmp_path / "set")


def test_an_existing_set_is_kept_unless_asked(made, tmp_path, said):
    import_embeddings(*made, tmp_path / "set", say=said)
    # A command that was killed at its very end can be repeated.
    import_embeddings(*made, tmp_path / "set", say=said)
    assert "already holds these embeddings" in said
    with pytest.raises(UserError, match="--overwrite"):
        import_embeddings(*made, tmp_path / "set", name="new", say=said)
    import_embeddings(*made, tmp_path / "set", name="new", overwrite=True, say=said)
    assert EmbeddingSet.open(tmp_path / "set").name == "new"


PATHS = ["a.jpg", "b.jpg", "a.jpg", "c.jpg", "d.jpg", "c.jpg"]


@pytest.fixture
def folder(tmp_path):
    """clip-retrieval's layout in two parts, four and two rows; a.jpg and c.jpg have two captions each."""
    rng = np.random.default_rng(1)
    of_path = {path: rng.normal(size=8) for path in PATHS}
    images = np.stack([of_path[path] for path in PATHS]).astype(np.float16)
    texts = rng.normal(size=(6, 8)).astype(np.float16)
    root = tmp_path / "retrieval"
    for kind in ("img_emb", "text_emb", "metadata"):
        (root / kind).mkdir(parents=True)
    # Parts 2 and 10: their numbers order them, not their names.
    for part, rows in ((2, slice(0, 4)), (10, slice(4, 6))):
        np.save(root / f"img_emb/img_emb_{part}.npy", images[rows])
        np.save(root / f"text_emb/text_emb_{part}.npy", texts[rows])
        frame = pd.DataFrame({"image_path": PATHS[rows], "caption": [f"text {i}" for i in range(6)][rows]})
        frame.to_parquet(root / f"metadata/metadata_{part}.parquet")
    return root, images, texts


def edit(root, part, change):
    path = root / f"metadata/metadata_{part}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def test_clip_retrieval(folder, tmp_path, said):
    root, images, texts = folder
    data = import_clip_retrieval(root, tmp_path / "set", say=said)
    assert data.images["path"].tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert data.relevance["image"].tolist() == [0, 1, 0, 2, 3, 2]
    assert data.texts["text"].tolist() == [f"text {i}" for i in range(6)]
    assert sorted(set(data.images["split"])) == ["test", "train", "val"]
    assert (data.images["split"].to_numpy()[data.relevance["image"]] == data.texts["split"]).all()
    for got, given in ((data.image_emb, images[[0, 1, 3, 4]]), (data.text_emb, texts)):
        given = given.astype(np.float32)
        assert np.abs(got - given / np.linalg.norm(given, axis=1)[:, None]).max() < 1e-3
    assert "dealt out 80/10/10" in said


def test_clip_retrieval_with_splits(folder, tmp_path, said):
    root = folder[0]
    edit(root, 2, lambda f: f.assign(split=["train", "validation", "train", "test"]))
    edit(root, 10, lambda f: f.assign(split=["train", "test"]))
    data = import_clip_retrieval(root, tmp_path / "set", say=said)
    assert data.images["split"].tolist() == ["train", "val", "test", "train"]
    edit(root, 10, lambda f: f.assign(split=["train", "train"]))
    with pytest.raises(UserError, match=r"row 5: image 'c\.jpg' is in split 'train' here and in 'test' in row 3"):
        import_clip_retrieval(root, tmp_path / "other", say=said)
    edit(root, 10, lambda f: f.assign(split=["train", "?"]))
    with pytest.raises(UserError, match=r"metadata_10\.parquet, row 1: split '\?'"):
        import_clip_retrieval(root, tmp_path / "other", say=said)
    edit(root, 10, lambda f: f.drop(columns="split"))
    with pytest.raises(UserError, match=r"metadata_10\.parquet: no column 'split'"):
        import_clip_retrieval(root, tmp_path / "other", say=said)


def test_clip_retrieval_with_labels(folder, tmp_path, said):
    root = folder[0]
    edit(root, 2, lambda f: f.assign(labels=["x", "y", "x", "y"]))
    with pytest.raises(UserError, match=r"metadata_10\.parquet: no column 'labels'"):
        import_clip_retrieval(root, tmp_path / "set", say=said)
    edit(root, 10, lambda f: f.assign(labels=["x", "x"]))
    with pytest.raises(UserError, match=r"row 5: image 'c\.jpg' has labels 'x' here and 'y' in row 3"):
        import_clip_retrieval(root, tmp_path / "set", say=said)
    edit(root, 10, lambda f: f.assign(labels=["x", None]))
    with pytest.raises(UserError, match=r"metadata_10\.parquet, row 1: labels is empty"):
        import_clip_retrieval(root, tmp_path / "set", say=said)
    edit(root, 10, lambda f: f.assign(labels=["x", "y"]))
    data = import_clip_retrieval(root, tmp_path / "set", say=said)
    assert data.images["labels"].tolist() == ["x", "y", "y", "x"]
    assert data.texts["labels"].tolist() == ["x", "y", "x", "y", "x", "y"]


def test_clip_retrieval_with_parts_that_do_not_fit(folder, tmp_path, said):
    root, images, _ = folder
    np.save(root / "img_emb/img_emb_10.npy", images[:2])  # c.jpg is another picture now
    with pytest.raises(UserError, match=r"row 5: image_path 'c\.jpg' stands in row 3 too, with another embedding"):
        import_clip_retrieval(root, tmp_path / "set", say=said)
    np.save(root / "img_emb/img_emb_10.npy", images[:, :7][4:])
    with pytest.raises(UserError, match=r"img_emb_2\.npy is 8 wide, .*img_emb_10\.npy is 7 wide"):
        import_clip_retrieval(root, tmp_path / "set", say=said)
    np.save(root / "img_emb/img_emb_10.npy", images[3:])
    with pytest.raises(UserError, match=r"img_emb_10\.npy has 3 rows, .*metadata_10\.parquet has 2"):
        import_clip_retrieval(root, tmp_path / "set", say=said)
    (root / "text_emb/text_emb_10.npy").unlink()
    with pytest.raises(UserError, match=r"text_emb: no text_emb_10\.npy"):
        import_clip_retrieval(root, tmp_path / "set", say=said)
    with pytest.raises(UserError, match="no clip-retrieval folder"):
        import_clip_retrieval(tmp_path / "gone", tmp_path / "set", say=said)
    assert not (tmp_path / "set").exists()


def test_without_splits_images_are_dealt_out(made, tmp_path, said):
    made[2].write_text("caption_id,image_id,caption\nc0,0,a dog\nc1,0,the dog\nc2,2,a cat\nc3,3,a bird\n")
    data = import_embeddings(*made, tmp_path / "set", say=said)
    assert sorted(data.images["split"]) == ["none", "none", "test", "train", "val"]
    assert data.images["split"].tolist()[1::3] == ["none", "none"]
    assert (data.images["split"].to_numpy()[data.relevance["image"]] == data.texts["split"]).all()
    assert "no split column; 3 images dealt out 80/10/10 (seed 0)" in said


@pytest.mark.parametrize(
    ("table", "texts"),
    [
        (TABLE.replace("the dog", " "), ["a dog", "[c1]", "a cat", "a bird"]),
        ("caption_id,image_id,split\nc0,0,train\nc1,0,train\nc2,2,test\nc3,3,val\n", ["[c0]", "[c1]", "[c2]", "[c3]"]),
    ],
)
def test_captions_whose_words_are_lost_are_shown_as_their_ids(made, tmp_path, said, table, texts):
    made[2].write_text(table)
    data = import_embeddings(*made, tmp_path / "set", say=said)
    lost = sum(text.startswith("[") for text in texts)
    assert data.texts["text"].tolist() == texts
    assert data.meta["captions_lost"] == lost
    assert f"the words of {lost} of 4 captions are lost; such a caption is shown as its id, [" in said


def test_images_alone_are_a_corpus_to_search_in(made, tmp_path, said):
    data = import_embeddings(made[0], None, None, tmp_path / "set", say=said)
    assert data.images["image_id"].tolist() == ["0", "1", "2", "3", "4"]
    assert data.meta["counts"] == {"test": {"images": 5, "texts": 0}}
    assert "5 images without captions, a corpus to search in" in said
    with pytest.raises(UserError, match="holds images without captions"):
        data.query_rows("t2i", "test")
    for texts, captions in ((made[1], None), (None, made[2])):
        with pytest.raises(UserError, match=r"A\.npy: give the array of the texts and the table of captions, both"):
            import_embeddings(made[0], texts, captions, tmp_path / "other")


def test_clip_retrieval_without_texts(folder, tmp_path, said):
    root = folder[0]
    shutil.rmtree(root / "text_emb")
    for part in (2, 10):
        edit(root, part, lambda f: f.drop(columns="caption"))
    data = import_clip_retrieval(root, tmp_path / "set", say=said)
    assert data.images["path"].tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert len(data.texts) == 0
    assert "4 images become a corpus to search in" in said


def test_clip_retrieval_whose_captions_are_lost(folder, tmp_path, said):
    root = folder[0]
    edit(root, 10, lambda f: f.assign(caption=["x", None]))
    data = import_clip_retrieval(root, tmp_path / "set", say=said)
    assert data.texts["text"].tolist()[4:] == ["x", "[5]"]
    for part in (2, 10):
        edit(root, part, lambda f: f.drop(columns="caption"))
    assert import_clip_retrieval(root, tmp_path / "none", say=said).meta["captions_lost"] == 6
