"""What every dataset becomes: images, captions and which belongs to which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Corpus:
    """Images on disk and their captions, before anything is encoded.

    Attributes
    ----------
    name : str
    images : DataFrame with image_id, path (absolute, or relative to `image_root`), split.
    texts : DataFrame with text_id, text, split.
        Where items have classes, both have a column labels, too.
    relevance : DataFrame with image, text (rows) and grade (1 or more).
    image_root : Path
    """

    name: str
    images: pd.DataFrame
    texts: pd.DataFrame
    relevance: pd.DataFrame
    image_root: Path

    def paths(self) -> list[Path]:
        """Return the image files, in the order of `images`."""
        return [self.image_root / path for path in self.images["path"]]  # an absolute path wins over the root

    def without(self, rows: Collection[int]) -> Corpus:
        """Return the corpus without these images, and without the captions that describe no other."""
        gone = np.zeros(len(self.images), dtype=bool)
        gone[list(rows)] = True
        image, text = self.relevance["image"].to_numpy(), self.relevance["text"].to_numpy()
        lost = np.zeros(len(self.texts), dtype=bool)
        lost[text[gone[image]]] = True
        lost[text[~gone[image]]] = False
        kept = self.relevance[~gone[image]]
        row_of_image, row_of_text = np.cumsum(~gone) - 1, np.cumsum(~lost) - 1
        return replace(
            self,
            images=self.images[~gone].reset_index(drop=True),
            texts=self.texts[~lost].reset_index(drop=True),
            relevance=kept.assign(image=row_of_image[kept["image"]], text=row_of_text[kept["text"]])
            .astype(self.relevance.dtypes)
            .reset_index(drop=True),
        )

    def summary(self) -> str:
        """Return one line of counts."""
        images, texts = self.images["split"].value_counts(), self.texts["split"].value_counts()
        parts = [f"{s} {images.get(s, 0):,} images / {texts.get(s, 0):,} captions" for s in ("train", "val", "test")]
        return f"{self.name}: " + ", ".join(parts)


def leaves(path: str) -> bool:
    """Say whether a path that a table gives leads out of the image folder; links inside it are their owner's choice."""
    return PurePath(path).is_absolute() or ".." in PurePath(path).parts


def image_table(
    ids: Sequence[str], paths: Sequence[str], splits: Sequence[str], labels: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the `images` frame of a corpus, with a column labels where they are given."""
    extra = {} if labels is None else {"labels": list(labels)}
    return pd.DataFrame({"image_id": list(ids), "path": list(paths), "split": list(splits), **extra}, dtype="str")


def text_table(
    ids: Sequence[str], texts: Sequence[str], splits: Sequence[str], labels: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the `texts` frame of a corpus, with a column labels where they are given."""
    extra = {} if labels is None else {"labels": list(labels)}
    return pd.DataFrame({"text_id": list(ids), "text": list(texts), "split": list(splits), **extra}, dtype="str")


def relevance_table(image_of_text: Sequence[int]) -> pd.DataFrame:
    """Return the `relevance` frame of a corpus in which caption i describes image `image_of_text[i]`."""
    frame = pd.DataFrame({"image": list(image_of_text), "text": range(len(image_of_text)), "grade": 1})
    return frame.astype({"image": "int32", "text": "int32", "grade": "uint8"})
