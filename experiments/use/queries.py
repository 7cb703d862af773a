"""Captions and images of the user's own, as a ranker takes them: embeddings, and words or cells, or themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.use.given import differing

if TYPE_CHECKING:
    from data_prep.encoder import Encoder
    from data_prep.local import LocalEncoder


@dataclass(frozen=True)
class Queries:
    """Captions or images that were encoded.

    Attributes
    ----------
    given : list of n captions, image files or Pillow images
    embeddings : ndarray (n, d)
    tokens : TokenTable of n, or None
        Their words or cells, where the ranker reads tokens.
    seconds : float
        What encoding took.
    """

    given: list[Any]
    embeddings: np.ndarray
    tokens: TokenTable | None
    seconds: float

    def __len__(self) -> int:
        return len(self.given)

    def select(self, places: Sequence[int]) -> Queries:
        """Return some of them."""
        tokens = None if self.tokens is None else self.tokens.select(torch.tensor(places))
        return Queries([self.given[place] for place in places], self.embeddings[places], tokens, self.seconds)

    @contextmanager
    def content(self) -> Iterator[list[str]]:
        """Yield captions or image files; of a Pillow image a file that is there meanwhile."""
        with TemporaryDirectory(prefix="rank-xmodal-") as folder:
            named = []
            for place, item in enumerate(self.given):
                if not isinstance(item, (str, Path)):
                    file = Path(folder) / f"{place}.png"
                    item.save(file)
                    item = file
                named.append(str(item))
            yield named


class QueryEncoder:
    """The encoder that made a corpus, loaded when it is first asked.

    Parameters
    ----------
    facts : dict
        What meta.json or config.json says of the encoder.
    where : str
        What messages call the corpus.
    tokens : dict or None
        What is said of the corpus' words and cells, where the ranker reads them.
    pretrained : str or None
        The encoder's weights, where they are not where they were.
    device : str
    say : callable
        Told what is loaded.
    """

    def __init__(
        self,
        facts: dict[str, Any],
        where: str,
        tokens: dict[str, Any] | None = None,
        *,
        pretrained: str | None = None,
        device: str = "auto",
        say: Callable[[str], None] = print,
    ) -> None:
        self.facts, self.where, self.tokens = facts, where, tokens
        self.pretrained, self.device, self.say = pretrained, device, say

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder.

        Raises
        ------
        UserError
            If nobody told which it was, or it can't be loaded.
        """
        from data_prep.encoder_of import encoder_of

        return encoder_of(self.facts, self.device, where=self.where, pretrained=self.pretrained, say=self.say)

    def share(self, other: QueryEncoder) -> None:
        """Take another's encoder where both are the same, so that it is in memory once."""
        own, its = (facts.get("weights_sha256") for facts in (self.facts, other.facts))
        if own and own == its:
            self.encoder = other.encoder

    def __call__(self, given: Sequence[Any], images: bool) -> Queries:
        """Encode captions, or image files and Pillow images where `images`.

        Raises
        ------
        UserError
            If the encoder can't be loaded, an image can't be read, or words and cells can't be made as those of the
            corpus were.
        """
        encoder, items = self.encoder, list(given)
        started = time.perf_counter()
        tokens = None
        if self.tokens is not None:
            tokens = self._cells(items) if images else self._words(items)
        embeddings = encoder.encode_images(items) if images else encoder.encode_texts(items)
        return Queries(items, embeddings, tokens, time.perf_counter() - started)

    @cached_property
    def _local(self) -> LocalEncoder:
        from data_prep.local import LocalEncoder

        facts = self.tokens or {}
        if facts.get("tower") in (None, "import"):
            raise UserError(
                f"{self.where}: its words and cells were imported, and nobody knows how to make those of a query; only "
                "its own rows can ask. Make them with `rank-xmodal embed ... --tokens features`, and train on them."
            )
        local = LocalEncoder(self.encoder, facts.get("path") or "values")  # a tower with one projected way names none
        made = {**local.image_facts, "normalised": local.normalised, "image_width": local.image_width}
        if found := differing(facts, {**made, "text_width": local.text_width}):
            raise UserError(
                f"{self.where}: its words and cells are not those that its encoder makes now ({found}). Make them "
                "again with `rank-xmodal embed ... --tokens`."
            )
        return local

    def _words(self, texts: list[str]) -> TokenTable:
        parts = self._local.texts(texts).parts
        ends = np.cumsum([0, *(len(part) for part in parts)])
        return TokenTable.of_texts(torch.cat(parts).half().cpu().numpy(), ends)

    def _cells(self, images: list[Any]) -> TokenTable:
        pixels = torch.stack([self.encoder.load_image(image) for image in images])
        names = [str(x) if isinstance(x, (str, Path)) else str(place) for place, x in enumerate(images)]
        return TokenTable.of_images(torch.stack(self._local.images(pixels, names).parts).half().cpu().numpy())
