"""Texts and images straight in: the encoder that a ranker was trained with, where somebody here can load it.

This package reads no image. Whoever can load an encoder says so by an entry point of the group `rank_xmodal.encoders`:
a function that takes what a run's config.json says of its encoder, and a device, and returns an `Encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rank_xmodal.errors import UserError

GROUP = "rank_xmodal.encoders"


class Encoder(Protocol):
    """The frozen encoder of both sides."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed captions, n -> (n, d) float16, L2-normalised."""
        ...

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        """Embed image files or Pillow images, n -> (n, d) float16, L2-normalised."""
        ...


def load_encoder(facts: dict[str, Any], device: str) -> Encoder:
    """Load the encoder that embeddings were made by.

    Parameters
    ----------
    facts : dict
        What config.json or meta.json says: encoder, pretrained, weights_sha256, perhaps weights_file, model_config.
    device : str

    Raises
    ------
    UserError
        If nobody knows which it was, nobody here can load it, or it can't be loaded.
    """
    if not facts.get("encoder"):
        raise UserError("The ranker was trained on embeddings whose encoder nobody told: give embeddings of your own.")
    for loader in entry_points(group=GROUP):
        return loader.load()(facts, device)
    raise UserError(
        f"No encoder can be loaded here: no package with an entry point {GROUP} is installed. Install rank-xmodal with "
        "pip, or give embeddings."
    )


class Sides:
    """What asks and what is ranked, in a run's direction, as embeddings; the encoder is loaded when first needed.

    Parameters
    ----------
    facts : dict
        A run's config.json: direction and encoder.
    device : str
    encoder : Encoder or None
        None for the one that the facts name.
    """

    def __init__(self, facts: dict[str, Any], device: str, encoder: Encoder | None = None) -> None:
        self.facts, self.device, self._encoder = facts, device, encoder

    @property
    def encoder(self) -> Encoder:
        """The encoder, see `load_encoder`."""
        if self._encoder is None:
            self._encoder = load_encoder(self.facts.get("encoder") or {}, self.device)
        return self._encoder

    def queries(self, given: Sequence[Any]) -> np.ndarray:
        """Return the embeddings (n, d) of captions (t2i), or image files and Pillow images (i2t); see `embedded`."""
        return embedded(self.encoder, given, self.facts.get("direction") == "i2t", "queries")

    def candidates(self, given: Sequence[Any]) -> np.ndarray:
        """Return the embeddings (n, d) of what is ranked; see `embedded`."""
        return embedded(self.encoder, given, self.facts.get("direction") == "t2i", "candidates")


def is_content(given: Any) -> bool:
    """Say whether something is a caption, an image or a list of these, not embeddings.

    >>> is_content("two dogs"), is_content([Path("a.jpg")]), is_content(np.zeros(3)), is_content([[0.1], [0.2]])
    (True, True, False, False)
    """
    if isinstance(given, (list, tuple)):
        return len(given) > 0 and is_content(given[0]) and not isinstance(given[0], (list, tuple))
    # The last is a Pillow image, without importing that.
    return isinstance(given, (str, Path)) or callable(getattr(given, "getbands", None))


def embedded(encoder: Encoder, given: Sequence[Any], images: bool, what: str) -> np.ndarray:
    """Return the embeddings (n, d) of captions, or of image files and Pillow images where `images`.

    Raises
    ------
    ValueError
        If one is of the other side, or an empty caption; `what` calls them.
    UserError
        If an image can't be read.
    """
    for place, item in enumerate(given):
        if not images and (not isinstance(item, str) or not item.strip()):
            raise ValueError(f"{what}: number {place} is {_told(item)}: this ranker takes a caption there.")
        if images and not is_content(item):
            raise ValueError(
                f"{what}: number {place} is {_told(item)}: this ranker takes an image file or a Pillow image there."
            )
    return encoder.encode_images(list(given)) if images else encoder.encode_texts(list(given))


def _told(item: Any) -> str:
    return "an empty one" if isinstance(item, str) else f"a {type(item).__name__}"
