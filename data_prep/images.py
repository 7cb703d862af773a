"""Reading one image file, whatever its mode, or saying what is wrong with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from rank_xmodal.errors import UserError

_REMEDY = "Bring the file again or delete its row."


def read_image(image: Any) -> Image.Image:
    """Return an upright RGB image of a path, or of a PIL image.

    Raises
    ------
    UserError
        If the file is missing, empty, cut short or no image.
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
    """Check that a file begins as an image does; costs a read of its first bytes.

    Raises
    ------
    UserError
        If it is missing, empty or no image.
    """
    _opened(path).close()


def _opened(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image. {_REMEDY}") from error
    except UnidentifiedImageError as error:
        kind = "an empty file" if path.stat().st_size == 0 else "not an image, or of a kind that Pillow can't read"
        raise UserError(f"{path}: {kind}. {_REMEDY}") from error
    except Exception as error:  # a damaged header, a folder, no permission, far too many pixels
        raise UserError(f"{path}: can't be opened as an image ({error}). {_REMEDY}") from error


def _rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)  # as a person sees it
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's own conversion clips at 255, which turns most of the image white.
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values >> 8 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
