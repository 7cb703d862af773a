"""Reading one image file, whatever its mode, or saying what is wrong with it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from rank_xmodal.errors import UserError

MOST_PIXELS = 89_478_485
"""Pixels of an image, Pillow's own threshold of a warning: 20 KB of a file can hold gigabytes of one colour."""
MOST_OBLONG = 400
"""Times a side may be as long as the other: the longer one grows with the shorter, which is scaled to the model's."""

# The size is judged here. Said for good, since `catch_warnings` must not be used in threads, and images are read there.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_REMEDY = "Bring the file again or delete its row."


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
            raise UserError(f"{image}: the image is cut short or damaged ({error}). {_REMEDY}") from error


def check_header(path: Path) -> None:
    """Check that a file begins as an image of a reasonable size does; costs a read of its first bytes.

    Raises
    ------
    UserError
        If it is missing, empty, no image, or larger than `MOST_PIXELS`.
    """
    _opened(path).close()


def files_digest(paths: Iterable[str]) -> str:
    """Return the SHA-256 of image files' paths and sizes: only who has the files can know it."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            size = Path(path).stat().st_size
        except (OSError, ValueError):
            size = -1
        digest.update(f"{path}\x1f{size}\x1e".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _opened(path: Path) -> Image.Image:
    try:
        opened = Image.open(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image. {_REMEDY}") from error
    except UnidentifiedImageError as error:
        kind = "an empty file" if path.stat().st_size == 0 else "not an image, or of a kind that Pillow can't read"
        raise UserError(f"{path}: {kind}. {_REMEDY}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the warning: as users filter it
        said = str(error).partition(",")[0]
        raise UserError(f"{path}: {said}. Scale the image down or delete its row.") from error
    except Exception as error:  # a damaged header, a folder, no permission
        raise UserError(f"{path}: can't be opened as an image ({error}). {_REMEDY}") from error
    try:
        _check_opened(path, opened)
    except UserError:
        opened.close()
        raise
    return opened


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
    image = ImageOps.exif_transpose(image)  # as a person sees it
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's own conversion clips at 255, which turns most of the image white.
        values = np.asarray(image)
        image = Image.fromarray((values >> 8 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
