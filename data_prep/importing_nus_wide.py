"""Embedding sets from NUS-WIDE's own features: colours, edges and textures, or SIFT words, and the 1,000 tags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.arrays import plain
from data_prep.datasets.nus_wide_classes import labels_of, needed, read_classes
from data_prep.importing_features import Part, check_share, write_features
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError, first_line
from rank_xmodal.files.reading import unreadable

FEATURES = {
    "normalized": tuple(f"{{}}_Normalized_{kind}.dat" for kind in ("CH", "CM55", "CORR", "EDH", "WT")),
    "bow": ("BoW_{}_int.dat",),
}
_TAGS = "{}_Tags1k.dat"


def import_nus_wide(
    root: Path | str,
    out: Path | str,
    name: str | None = None,
    *,
    features: str = "normalized",
    classes: int | None = None,
    val: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set from the text files of NUS-WIDE: splits are those of the release, train and test.

    Parameters
    ----------
    root : Path
        Holds what ImageList.zip, Groundtruth.zip, NUS_WID_Tags.zip and NUS_WID_Low_Level_Features.zip hold.
    out : Path
        The folder to be made.
    name : str, optional
        What tables call the set; the folder's name if not given.
    features : "normalized" or "bow"
        The five normalised features side by side, 634 wide, or the 500 SIFT words.
    classes : int, optional
        Keep the classes with the most images (papers: 10, or 21), and what is in one of them.
    val : float
        Share of train that becomes the split val, drawn by `seed`.
    seed : int

    Raises
    ------
    UserError
        If a file is missing or malformed, or files differ in length; the message names file and row.
    """
    root, out = Path(root), Path(out)
    check_replaceable(out, overwrite=True)
    check_share(val)
    if features not in FEATURES:
        raise UserError(f"features={features!r}: must be one of {', '.join(FEATURES)}.")
    names, splits = read_classes(root, classes)
    parts = []
    for split, own in splits.items():
        wide = [
            _matrix(needed(root, form.format(split.title()), "NUS_WID_Low_Level_Features.zip"), len(own.images))
            for form in FEATURES[features]
        ]
        tags = _matrix(needed(root, _TAGS.format(split.title()), "NUS_WID_Tags.zip"), len(own.images))
        labels = ["|".join(sorted(classed)) for classed in labels_of(own.truth, names)]
        parts.append(Part(np.concatenate(wide, axis=1), tags, labels))
    train, test = parts
    for side, one, other in (("images", train.images, test.images), ("texts", train.texts, test.texts)):
        if one.shape[1] != other.shape[1]:
            raise UserError(
                f"{root}: {side} of train are {one.shape[1]} wide, of test {other.shape[1]}. Bring the files again."
            )
    return write_features(parts, out, name, "nus_wide", str(root), val=val, seed=seed, overwrite=overwrite, say=say)


def _matrix(path: Path, count: int) -> np.ndarray:
    """Return a text file of numbers, a line for each of `count` images: (count, d) float32."""
    try:
        with path.open(encoding="ascii") as handle:  # a path that ends in .gz would be unpacked
            array = np.loadtxt(handle, dtype=np.float32, comments=None, ndmin=2)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise UserError(f"{path}: no table of numbers ({first_line(error)}). Bring the file again.") from error
    if len(array) != count:
        raise UserError(f"{path}: has {len(array):,} rows, the list has {count:,} images. Bring both again.")
    return plain(path, array)
