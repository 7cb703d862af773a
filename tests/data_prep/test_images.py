import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from data_prep.images import MOST_OBLONG, MOST_PIXELS, SUFFIXES, check_header, files_digest, read_image
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


@pytest.mark.parametrize(
    ("kind", "white", "suffix"),
    [("float32", 1, "tif"), ("float32", 255, "tif"), ("float32", 65_535, "tif"), ("int32", 65_535, "tif"),
     ("int32", 2**31 - 1, "tif"), ("int32", 255, "tif"), ("uint16", 255, "png")],
)  # fmt: skip
def test_grey_values_of_any_range_become_those_of_eight_bits(tmp_path, kind, white, suffix):
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray((ramp * white).astype(kind)).save(path)
    read = np.asarray(read_image(path))[..., 0].astype(int)
    assert np.abs(read - ramp * 255).max() <= 1.0


def test_what_is_no_number_in_an_image_spoils_nothing_else(tmp_path):
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64).astype(np.float32)
    ramp[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(ramp).save(tmp_path / "holes.tif")
    read = np.asarray(read_image(tmp_path / "holes.tif"))[..., 0]
    assert read[0, :3].tolist() == [0, 255, 0]
    assert np.abs(read[1:] - ramp[1:] * 255).max() <= 1.0


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "avif"])
def test_each_orientation_is_turned_upright(tmp_path, suffix, orientation):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    upright = np.zeros((60, 80, 3), dtype=np.uint8)
    upright[:20, :20] = 255  # the corner on the left, at the top
    upright[:20, 60:, 0] = 255  # and the red one on the right
    back = [lambda a: a, np.fliplr, lambda a: a[::-1, ::-1], np.flipud, lambda a: a.transpose(1, 0, 2), np.rot90,
            lambda a: a[::-1, ::-1].transpose(1, 0, 2), lambda a: np.rot90(a, -1)]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    lossless = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(back[orientation - 1](upright))).save(path, exif=exif, **lossless)
    read = np.asarray(read_image(path)).astype(int)
    assert read.shape == upright.shape
    assert np.abs(read - upright).mean() < 3


def exif_of(*entries):
    """Return a JPEG's EXIF segment: turned by 90 degrees, and other tags of a camera, as (tag, type, count, value)."""
    entries = sorted([*entries, (0x0112, 3, 1, b"\6\0\0\0")])
    table = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    data = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0\0\0\0"
    return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ((0x0100, 2, 4, b"abc\0"), "a width in letters, which Pillow reads and can't write"),
        ((0x010F, 3, 1, b"\7\0\0\0"), "a maker that is a number"),
        ((0x011A, 7, 4, b"abcd"), "a resolution of bytes"),
        ((0x8769, 2, 4, b"abc\0"), "a place of further tags in letters"),
    ],
)
def test_a_photo_is_turned_whatever_else_its_camera_wrote(tmp_path, picture, entry, why):
    plain = io.BytesIO()
    made = picture(2)
    made.save(plain, "JPEG", quality=95)
    whole = plain.getvalue()
    (tmp_path / "odd.jpg").write_bytes(whole[:2] + exif_of(entry) + whole[2:])
    wanted = Image.open(plain).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(read_image(tmp_path / "odd.jpg")), np.asarray(wanted)), why


def test_an_image_in_memory_whose_exif_is_none_is_read(picture):
    made = picture(2)
    made.info["exif"] = b"Exif\0\0garbage!!garbage"
    assert np.array_equal(np.asarray(read_image(made)), np.asarray(picture(2)))


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


@pytest.mark.parametrize("suffix", ["png", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("size", [(9_500, 9_500), (14_000, 13_000)])  # Pillow's warning and its error
def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header(tmp_path, suffix, size, monkeypatch):
    path = tmp_path / f"bomb.{suffix}"
    Image.new("1", size).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for wish in ("error", "ignore"):
        warnings.simplefilter(wish)
        for function in (read_image, check_header):
            with pytest.raises(UserError, match=rf"bomb\.{suffix}: .*pixels.*Scale the image down"):
                function(path)
    assert MOST_PIXELS < 9_500 * 9_500


def test_threads_that_meet_large_pictures_print_no_warning(tmp_path):
    for k in range(8):
        Image.new("1", (9_500, 9_500)).save(tmp_path / f"{k}.png")
    program = f"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from data_prep.images import check_header
from rank_xmodal.errors import UserError

def check(k):
    try:
        check_header(Path({str(tmp_path)!r}) / f"{{k % 8}}.png")
    except UserError:
        return 1

with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(check, range(200))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("200\n", "")


def test_of_a_damaged_file_its_message_is_all_that_is_printed(tmp_path, picture):
    path = tmp_path / "cut.tif"
    picture(1).save(path)
    path.write_bytes(path.read_bytes()[:100])  # within its directory, of which Pillow warns and names no file
    program = f"""
from data_prep.images import read_image
from rank_xmodal.errors import UserError

try:
    read_image({str(path)!r})
except UserError as error:
    print("told" if "cut.tif" in str(error) else error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("told\n", "")


def test_the_limit_holds_whatever_another_library_tells_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("1", (14_000, 13_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="14,000 x 13,000 pixels"):
        check_header(tmp_path / "bomb.png")


@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_that_scaling_would_blow_up_is_refused(tmp_path, turned):
    for long, good in ((MOST_OBLONG * 2, True), (MOST_OBLONG * 2 + 1, False)):
        Image.new("L", (2, long) if turned else (long, 2)).save(tmp_path / "strip.png")
        if good:
            check_header(tmp_path / "strip.png")
            continue
        with pytest.raises(UserError, match=r"strip\.png: .*801.*Crop the image"):
            check_header(tmp_path / "strip.png")


def test_postscript_is_never_run(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was run"))
    with pytest.raises(UserError, match="PostScript"):
        read_image(path)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_text_of_a_png_that_unpacks_to_gigabytes_is_refused(tmp_path, picture):
    made = io.BytesIO()
    picture(1).save(made, "PNG")
    whole, text = made.getvalue(), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000)))
    for place in (whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4):
        (tmp_path / "text.png").write_bytes(whole[:place] + text + whole[place:])
        with pytest.raises(UserError, match=r"text\.png: .*Bring the file again"):
            read_image(tmp_path / "text.png")


@pytest.mark.filterwarnings("ignore")  # Pillow says of some what it skips
@pytest.mark.parametrize(
    ("format", "mode"),
    [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("GIF", "RGB"), ("WEBP", "RGB"),
     ("TIFF", "RGB"), ("BMP", "RGB"), ("ICO", "RGB"), ("PPM", "L")],
)  # fmt: skip
def test_whatever_is_wrong_with_a_file_is_said(tmp_path, picture, format, mode):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    made, rng, path = io.BytesIO(), random.Random(0), tmp_path / "x"
    picture(1, mode).save(made, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
    whole = made.getvalue()
    for _ in range(150):
        spoilt = bytearray(whole[: rng.randrange(1, len(whole))] if rng.random() < 0.2 else whole)
        for _ in range(rng.choice((1, 2, 8))):
            near = len(spoilt) if rng.random() < 0.5 else min(len(spoilt), 120)
            spoilt[rng.randrange(near)] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        path.write_bytes(spoilt)
        try:
            read = read_image(path)
        except UserError:
            continue
        assert read.mode == "RGB"


def test_the_digest_is_of_paths_and_sizes(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    paths = [str(tmp_path / "a"), "", "\0", "x" * 5_000]
    first = files_digest(paths)
    os.utime(tmp_path / "a", (0, 0))
    assert files_digest(paths) == first
    assert files_digest(paths[::-1]) != first
    (tmp_path / "a").write_bytes(b"three")
    assert files_digest(paths) != first


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tiff", "avif", "heic"])
def test_every_format_that_a_folder_is_searched_for(tmp_path, picture, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    path, made = tmp_path / f"x.{suffix}", picture(5, size=(64, 48))
    made.save(path, **({"quality": 95} if suffix in ("jpg", "webp", "avif", "heic") else {}))
    assert f".{suffix}" in SUFFIXES
    check_header(path)
    read = read_image(path)
    assert (read.mode, read.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(read, dtype=int) - np.asarray(made, dtype=int)).mean() < 12  # a GIF has 256 colours


@pytest.mark.parametrize("suffix", ["jpg", "heic", "webp", "tiff"])
def test_a_photo_taken_upright_is_read_as_one_that_was_turned(tmp_path, picture, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    upright, exif = picture(2, size=(48, 64)), Image.Exif()
    exif[0x0112] = 6  # what the camera stores lies on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"turned.{suffix}", exif=exif.tobytes(), quality=95)
    upright.save(tmp_path / f"upright.{suffix}", quality=95)
    turned, plain = (np.asarray(read_image(tmp_path / f"{n}.{suffix}"), dtype=int) for n in ("turned", "upright"))
    assert turned.shape == plain.shape == (64, 48, 3)
    assert np.abs(turned - plain).mean() < 3


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg"])
def test_a_heic_photo_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    path = tmp_path / name
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    for function in (read_image, check_header):
        with pytest.raises(UserError, match=rf"{name}: a HEIC photo, .*pip install 'rank-xmodal\[heic\]'"):
            function(path)


def test_a_damaged_heic_photo_is_told(tmp_path, picture):
    pytest.importorskip("pillow_heif")
    path = tmp_path / "x.heic"
    picture(3, size=(128, 96)).save(path)
    whole = path.read_bytes()
    for part in (len(whole) // 2, 40):
        path.write_bytes(whole[:part])
        with pytest.raises(UserError, match=r"x\.heic: .*Bring the file again"):
            read_image(path)


def test_an_avif_image_that_this_pillow_cannot_read(tmp_path, monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check", lambda feature: False)
    (tmp_path / "x.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(100))
    with pytest.raises(UserError, match=r"x\.avif: an AVIF image, which needs Pillow 11\.3"):
        read_image(tmp_path / "x.avif")
