"""Reading one image file, whatever its mode, or saying what is wrong with it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features

from rank_xmodal.errors import UserError

_KINDS = ("jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "bmp", "tif", "tiff", "avif", "heic", "heif", "hif")
SUFFIXES = frozenset(f".{kind}" for kind in _KINDS)
"""What image files are called; a folder without a table of captions is searched for these."""
MOST_PIXELS = 89_478_485
"""Pixels of an image, Pillow's own threshold of a warning: 20 KB of a file can hold gigabytes of one colour."""
MOST_OBLONG = 400
"""Times a side may be as long as the other: the longer one grows with the shorter, which is scaled to the model's."""

# The size is judged here. Said for good, since `catch_warnings` must not be used in threads, and images are read there.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow's other warnings name no file; where one of them matters, the image can't be read, which is told.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands, behind the file's length
_AVIF = (b"avif", b"avis")
_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation: what makes it upright

with suppress(ImportError):  # the extra heic
    import pillow_heif

    pillow_heif.register_heif_opener()

REMEDY = "Bring the file again or delete its row."
"""How the message about a file that can't be used ends."""


def read_image(image: Any) -> Image.Image:
    """Return an upright RGB image of a path, or of a PIL image.

    Raises
    ------
    UserError
        If the file is missing, empty, cut short, no image, or larger than `MOST_PIXELS`.
    """
    if isinstance(image, Image.Image):
        return _rgb(image)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have asked for grey lower halves
    with _opened(Path(image)) as opened:
        try:
            opened.load()
            return _rgb(opened)
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and others
            raise UserError(f"{image}: the image is cut short or damaged ({_said(error)}). {REMEDY}") from error


def check_header(path: Path) -> None:
    """Check that a file begins as an image of a reasonable size does; costs a read of its first bytes.

    Raises
    ------
    UserError
        If it is missing, empty, no image, or larger than `MOST_PIXELS`.
    """
    _opened(path).close()


def files_digest(names: Iterable[str], files: Iterable[str] | None = None) -> str:
    """Return the SHA-256 of image files' names and sizes: only who has the files can know it.

    Parameters
    ----------
    names : iterable of str
        As a set's `path` column has them.
    files : iterable of str, optional
        Where these files are; the names themselves if not given.
    """
    digest = hashlib.sha256()
    names = list(names)
    for path, file in zip(names, names if files is None else files, strict=True):
        try:
            size = Path(file).stat().st_size
        except (OSError, ValueError):
            size = -1
        digest.update(f"{path}\x1f{size}\x1e".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _opened(path: Path) -> Image.Image:
    try:
        opened = Image.open(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image. {REMEDY}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: {_unknown_kind(path)}. {REMEDY}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the warning: as users filter it
        said = str(error).partition(",")[0]
        raise UserError(f"{path}: {said}. Scale the image down or delete its row.") from error
    except Exception as error:  # a damaged header, a folder, no permission
        raise UserError(f"{path}: can't be opened as an image ({_said(error)}). {REMEDY}") from error
    try:
        _check_opened(path, opened)
    except UserError:
        opened.close()
        raise
    return opened


def _unknown_kind(path: Path) -> str:
    """Say what a file is that Pillow doesn't know; phones name HEIC photos .jpg, too."""
    with path.open("rb") as handle:
        start = handle.read(12)
    if not start:
        return "an empty file"
    brand = start[8:] if start[4:8] == b"ftyp" else b""
    if brand in _HEIF and "HEIF" not in Image.OPEN:
        return "a HEIC photo, which needs another package (pip install 'rank-xmodal[heic]')"
    if brand in _AVIF and not features.check("avif"):
        return "an AVIF image, which needs Pillow 11.3 or newer (pip install --upgrade pillow)"
    return "not an image, or of a kind that Pillow can't read"


def _said(error: Exception) -> str:
    return " ".join(str(error).split())  # libheif ends lines


def _check_opened(path: Path, opened: Image.Image) -> None:
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path}: {width:,} x {height:,} pixels are {width * height:,}, and {MOST_PIXELS:,} the most that are "
            "decoded. Scale the image down or delete its row."
        )
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise UserError(
            f"{path}: {width:,} x {height:,} pixels: a side may be {MOST_OBLONG} times as long as the other. Crop the "
            "image or delete its row."
        )
    if opened.format == "EPS":  # a program, which Pillow would have Ghostscript run
        raise UserError(f"{path}: PostScript, not an image. Convert it to PNG or delete its row.")


def _rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode[0] in "IF":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as a person sees it."""
    # Pillow's own function also writes the EXIF anew, and what some cameras wrote there can be read, but not written.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # of EXIF that is none: SyntaxError, ValueError, struct.error and others
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Return grey values of more than 8 bits, whole or broken numbers, as 8 bits.

    Pillow's own conversion clips at 255, which turns most of a 16-bit image white, and all of one from 0 to 1 black.
    """
    largest = values.max(initial=0, where=np.isfinite(values))
    if largest <= 1 and values.dtype.kind == "f":
        values = values * 255.0
    elif largest > 255:
        values = values / (256 if largest <= 65_535 else float(largest) / 255)  # above, nobody knows what white is
    return np.nan_to_num(values, posinf=255, neginf=0).clip(0, 255).astype(np.uint8)
