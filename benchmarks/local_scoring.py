"""Matching words with cells by SCAN: cosines from Gram matrices, and with contexts that are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, alternate_apart, row
from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.late_interaction import Way
from rank_xmodal.scorers.local.pairing import Grid, OfLists, Pairing
from rank_xmodal.scorers.local.scan import Scan, ScanSettings

QUERIES, LENGTH, GALLERY = 32, 50, 1_000
WORDS, CELLS, WIDTH = 16, 49, 64
TARGET = 3.0


def plain(products: Tensor, own: Tensor, others: Tensor, mask: Tensor, there: Tensor, sharpness: float) -> Tensor:
    """Return the similarities of pairs as the paper writes them: what each token found is built, then compared."""
    close = F.normalize(products.relu(), dim=-2)
    weights = (sharpness * close).masked_fill(~there[..., None, :], -torch.inf).softmax(-1)
    cosines = F.cosine_similarity(own, weights @ others, dim=-1)
    return torch.where(mask, cosines, 0.0).sum(-1) / mask.sum(-1)


def plain_match(images: Bag, texts: Bag, pairing: Pairing, settings: ScanSettings) -> Tensor:
    """Return what the head's `match` returns."""
    products, found = pairing.products(texts.values, images.values), []
    words, cells = pairing.texts(texts.values), pairing.images(images.values)
    read, there = pairing.texts(texts.mask), pairing.images(images.mask)
    if settings.way != "cells":
        found.append(plain(products, words, cells, read, there, settings.word_sharpness))
    if settings.way != "words":
        found.append(plain(products.transpose(2, 3), cells, words, there, read, settings.cell_sharpness))
    return sum(found[1:], found[0]) / len(found)


def matching(side: Literal["ours", "theirs"], way: Way, listed: bool) -> Callable[[], Tensor]:
    """Return a function that matches captions with the images of their lists, or each with the same images.

    Both sides find the items encoded, which is done once for all lists; ours has an image's Gram matrix by that.
    """
    torch.manual_seed(0)
    settings = ScanSettings.checked({"way": way, "width": WIDTH}, Scan.name)
    network = Scan.head(32, 32, settings).eval()
    place = torch.randint(GALLERY, (QUERIES, LENGTH))
    used, place = torch.unique(place, return_inverse=True)
    read = torch.arange(WORDS) < torch.randint(WORDS // 2, WORDS + 1, (QUERIES, 1))
    with torch.no_grad():
        count = len(used) if listed else LENGTH
        images = network.encode_image(Bag.of(torch.randn(count, CELLS, 32), torch.ones(count, CELLS).bool()))
        texts = network.encode_text(Bag.of(torch.randn(QUERIES, WORDS, 32), read))
    pairing = OfLists("t2i", place) if listed else Grid()

    @torch.no_grad()
    def match() -> Tensor:
        if side == "ours":
            return network.match(images, texts, pairing)
        return plain_match(images, texts, pairing, settings)

    return match


def rows() -> Iterator[Row]:
    """Compare each way to look, on lists and with every image."""
    asked: tuple[tuple[Way, bool, float | None], ...] = (
        ("both", True, TARGET), ("words", True, None), ("cells", True, None), ("both", False, None),
    )  # fmt: skip
    for way, listed, target in asked:
        sides = (matching, ("ours", way, listed)), (matching, ("theirs", way, listed))
        pairs = alternate_apart(*sides, times=10, repeats=7)
        met = f"lists of {LENGTH}" if listed else f"the same {LENGTH} images"
        yield row(f"SCAN, {QUERIES} captions, {met}, way={way}", "contexts built", pairs, target)
