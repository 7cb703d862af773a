"""The training pairs of a set: what projections learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.data.checks import LABELS, classes_of
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError


@dataclass
class TrainingPairs:
    """Every relevant image and text of the split train, one sample a pair; grades don't count.

    Attributes
    ----------
    images, texts : Tensor (n, d) and (m, e), float32, each row once
    image, text : ndarray (P,), int64
        The pairs, as rows of the two tables.
    relevant : csr_matrix (m, n), bool
    image_rows, text_rows : ndarray (n,) and (m,), int64
        Rows of the two tables in the set.
    image_labels, text_labels : Tensor (n, C) and (m, C), float32, or None
        1 for each class of an item, the classes of the whole split train in their order; None where the set has none.
    """

    images: torch.Tensor
    texts: torch.Tensor
    image: np.ndarray
    text: np.ndarray
    relevant: sp.csr_matrix
    image_rows: np.ndarray
    text_rows: np.ndarray
    image_labels: torch.Tensor | None = None
    text_labels: torch.Tensor | None = None

    @classmethod
    def gather(cls, data: EmbeddingSet, device: torch.device | str = "cpu") -> TrainingPairs:
        """Take the pairs whose image and text are both in train, ordered by text and image.

        Raises
        ------
        UserError
            If there are none.
        """
        train_images = (data.images["split"] == "train").to_numpy()
        train_texts = (data.texts["split"] == "train").to_numpy()
        pairs = data.relevance_matrix("t2i").tocoo()
        kept = train_texts[pairs.row] & train_images[pairs.col] & (pairs.data > 0)
        if not kept.any():
            raise UserError(
                f"{data.root or data.name}: no caption of the split train belongs to an image of it. "
                "Projections are learnt from such pairs; check the split column."
            )
        image_rows, image = np.unique(pairs.col[kept], return_inverse=True)
        text_rows, text = np.unique(pairs.row[kept], return_inverse=True)
        order = np.lexsort((image, text))
        image, text = image[order].astype(np.int64), text[order].astype(np.int64)
        shape = (len(text_rows), len(image_rows))
        return cls(
            images=table_of(data.image_emb, image_rows, device),
            texts=table_of(data.text_emb, text_rows, device),
            image=image,
            text=text,
            relevant=sp.csr_matrix((np.ones(len(image), dtype=bool), (text, image)), shape=shape),
            image_rows=image_rows.astype(np.int64),
            text_rows=text_rows.astype(np.int64),
            **labels_of(data, image_rows, text_rows, device),
        )

    def __len__(self) -> int:
        return len(self.image)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the pairs in random order, in batches of about `size` that differ by one pair at most."""
        yield from np.array_split(rng.permutation(len(self)), max(1, round(len(self) / size)))

    def embeddings(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images and the texts of the pairs `index` (B,), (B, d) each."""
        device = self.images.device
        image, text = (torch.from_numpy(rows[index]).to(device) for rows in (self.image, self.text))
        return self.images[image], self.texts[text]

    def match(self, index: np.ndarray) -> torch.Tensor:
        """Return (B, B) bool: image of pair i is relevant to text of pair j, in the same pair or by another."""
        found = self.relevant[self.text[index]][:, self.image[index]].toarray()
        return torch.from_numpy(np.ascontiguousarray(found.T)).to(self.images.device)


def labels_of(
    data: EmbeddingSet, image_rows: np.ndarray, text_rows: np.ndarray, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Return `image_labels` and `text_labels` of these rows by name; nothing of a set without classes."""
    if not data.labelled:
        return {}
    from sklearn.preprocessing import MultiLabelBinarizer

    sides = (("image_labels", data.images, image_rows), ("text_labels", data.texts, text_rows))
    named = {name: [classes_of(value) for value in table[LABELS].iloc[rows]] for name, table, rows in sides}
    known = MultiLabelBinarizer().fit([classes for own in named.values() for classes in own])
    return {name: torch.from_numpy(known.transform(own).astype(np.float32)).to(device) for name, own in named.items()}


def table_of(emb: np.ndarray, rows: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """Return rows of a table of embeddings as float32 on a device."""
    return torch.from_numpy(np.asarray(emb[rows], dtype=np.float32)).to(device)
