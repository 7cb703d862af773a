"""Which files of a folder are images to be embedded."""

import os

import pytest

from data_prep.datasets.walk import find_images
from rank_xmodal.errors import UserError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_nested_sorted_and_by_suffix(tmp_path):
    put(tmp_path, "b.JPG", "a/z.png", "a/b/c.heic", "a.webp", "film.mov", "a/notes.txt", "plain", "x.tar.gz")
    found = find_images(tmp_path)
    assert found.images == ["a.webp", "a/b/c.heic", "a/z.png", "b.JPG"]
    assert str(found) == "left out, as no images: 1 .txt, 1 .mov, 1 without suffix, 1 .gz"


def test_hidden_files_and_folders_are_left_out_and_counted(tmp_path):
    put(tmp_path, ".thumbnails/a.jpg", "._a.jpg", "a.jpg")
    found = find_images(tmp_path)
    assert found.images == ["a.jpg"]
    assert str(found) == "left out, as no images: 2 hidden"


@pytest.mark.parametrize(
    "name", ["with space.jpg", "line\nbreak.jpg", "ü–日本.jpg", "quote'\".jpg", "a..b.jpg", "c:d.jpg"]
)
def test_odd_names(tmp_path, name):
    put(tmp_path, name)
    assert find_images(tmp_path).images == [name]


def test_links_are_followed_and_no_folder_is_walked_twice(tmp_path):
    put(tmp_path, "in/a.jpg", "out/b.jpg")
    root = tmp_path / "in"
    (root / "up").symlink_to("..")
    (root / "out").symlink_to(tmp_path / "out")
    (root / "me.jpg").symlink_to("me.jpg")  # in a circle
    (root / "gone.jpg").symlink_to("nowhere")
    found = find_images(root)
    assert found.images == ["a.jpg", "gone.jpg", "me.jpg", "out/b.jpg"], "what is gone is told by who reads it"
    assert str(found) == ""


def test_pipes_and_folders_named_like_images_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "album.jpg").mkdir()
    put(tmp_path, "album.jpg/a.jpg")
    assert find_images(tmp_path).images == ["album.jpg/a.jpg"]


def test_names_that_no_table_can_hold(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"is no UTF-8. Rename the file"):
        find_images(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def locked(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match=r"locked: may not be read .*move the folder out"):
        find_images(tmp_path)
