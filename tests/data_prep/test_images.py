import numpy as np
import pytest
from PIL import Image, ImageFile

from data_prep.images import check_header, read_image
from rank_xmodal.errors import UserError


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("RGB", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("1", "png"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, picture, mode, suffix):
    made = picture(3, "RGB").convert(mode)
    path = tmp_path / f"x.{suffix}"
    made.save(path)
    read = read_image(path)
    assert read.mode == "RGB"
    assert read.size == (40, 30)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(np.asarray(read), expected)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(ramp).save(path)
    read = np.asarray(read_image(path))[..., 0].astype(int)
    assert np.abs(read - ramp / 257).max() <= 1.0


def test_palette_with_transparency(tmp_path, picture):
    path = tmp_path / "p.png"
    picture(1, "P").save(path, transparency=b"\x00\x80\xff")
    assert read_image(path).mode == "RGB"


def test_exif_rotation_is_applied(tmp_path, picture):
    made = picture(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn right by 90 degrees
    path = tmp_path / "turned.png"
    made.save(path, exif=exif)
    expected = made.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(expected))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_short(tmp_path, picture, suffix, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # somebody else's setting doesn't hide it
    path = tmp_path / f"cut.{suffix}"
    picture(4, size=(200, 150)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check_header(path)  # its beginning is whole
    with pytest.raises(UserError, match=rf"cut\.{suffix}: the image is cut short.*delete its row"):
        read_image(path)


def test_text_named_jpg(tmp_path):
    path = tmp_path / "note.jpg"
    path.write_text("this is no image")
    for function in (read_image, check_header):
        with pytest.raises(UserError, match=r"note\.jpg: not an image"):
            function(path)


def test_empty_and_missing_and_folder(tmp_path):
    (tmp_path / "e.jpg").touch()
    with pytest.raises(UserError, match="an empty file"):
        read_image(tmp_path / "e.jpg")
    with pytest.raises(UserError, match="no such image"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="can't be opened"):
        read_image(tmp_path)
