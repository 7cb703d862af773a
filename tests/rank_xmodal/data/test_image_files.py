"""Where the image files of a set are: as its table says, moved along with it, or gone."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.errors import UserError


def written(folder, paths, **meta):
    """Return a set without captions whose images have these paths."""
    count = len(paths)
    images = pd.DataFrame({"image_id": [str(i) for i in range(count)], "path": paths, "split": "test"})
    none = pd.DataFrame({"text_id": [], "text": [], "split": []}, dtype="str")
    relevance = pd.DataFrame({"image": [], "text": [], "grade": []}, dtype="int64")
    emb = np.eye(count, 8, dtype=np.float16)
    return EmbeddingSet(emb, emb[:0], images, none, relevance, meta).write(folder)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "here/photos/sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg"):
        (tmp_path / "here/photos" / name).write_bytes(b"x")
    return tmp_path / "here/photos"


def rooted(photos, folder, paths=("a.jpg", "sub/b.jpg")):
    relative = os.path.relpath(photos, folder)
    return written(folder, list(paths), image_root=str(photos), image_root_relative=relative)


def test_relative_to_the_folder_of_the_images(photos):
    data = rooted(photos, photos.parent / "set")
    assert image_files(data) == [str(photos / "a.jpg"), str(photos / "sub/b.jpg")]
    assert image_files(replace(data, images=data.images.iloc[::-1], cut_of=data))[1] == str(photos / "a.jpg")


def test_set_and_photos_moved_together_are_found(photos, tmp_path, monkeypatch):
    rooted(photos, photos.parent / "set")
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    for path in (tmp_path / "there/set", Path("set")):
        assert image_files(EmbeddingSet.open(path))[1] == str(tmp_path / "there/photos/sub/b.jpg")
    photos.mkdir(parents=True)  # a folder of that name without the photos is not theirs
    assert image_files(EmbeddingSet.open("set"))[0] == str(tmp_path / "there/photos/a.jpg")


def test_a_set_that_is_opened_by_a_link_finds_the_photos_beside_itself(photos, tmp_path):
    rooted(photos, photos.parent / "set")
    shutil.move(tmp_path / "here", tmp_path / "there")
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/mine").symlink_to(tmp_path / "there/set")
    assert image_files(EmbeddingSet.open(tmp_path / "sets/mine"))[0] == str(tmp_path / "there/photos/a.jpg")


def test_photos_that_are_gone(photos, tmp_path):
    data = rooted(photos, photos.parent / "set")
    shutil.move(photos, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"its images are not in .*here/photos\. .*embed` with another --root"):
        image_files(data)
    assert image_files(data, there=False)[0] == str(photos / "a.jpg")


def test_one_deleted_photo_does_not_move_the_others(photos):
    data = rooted(photos, photos.parent / "set")
    (photos / "a.jpg").unlink()
    assert image_files(data)[1] == str(photos / "sub/b.jpg")


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "sub/../../x.jpg", "a\0.jpg"])
def test_what_leads_out_of_the_folder_is_refused(photos, path):
    data = rooted(photos, photos.parent / "set", ["a.jpg", path])
    for there in (True, False):
        with pytest.raises(UserError, match=r"images\.parquet: row 1 has the path .*leads out"):
            image_files(data, there=there)


def test_odd_names_do_not_lead_out(photos):
    names = ["a..b.jpg", "c:d.jpg", "e\\f.jpg", "line\nbreak ü'\".jpg"]
    assert image_files(rooted(photos, photos.parent / "set", names)) == [f"{photos}/{name}" for name in names]


@pytest.mark.parametrize(
    ("key", "value"), [("image_root", 3), ("image_root", "photos"), ("image_root", "a\0"), ("image_root_relative", [])]
)
def test_a_broken_place_is_named(photos, key, value):
    data = rooted(photos, photos.parent / "set")
    meta = json.loads((data.root / "meta.json").read_text())
    (data.root / "meta.json").write_text(json.dumps({**meta, key: value}))
    with pytest.raises(UserError, match=rf"meta\.json has the {key} "):
        image_files(EmbeddingSet.open(data.root))


def test_imported_and_old_sets_have_paths_of_their_own(tmp_path):
    data = written(tmp_path / "set", ["/far/a.jpg", "b.jpg", ""])
    assert image_files(data) == ["/far/a.jpg", str(tmp_path / "set/b.jpg"), ""]
    assert image_files(replace(data, root=None)) == ["/far/a.jpg", "b.jpg", ""]
