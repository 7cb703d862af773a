"""Encoding images: files to embeddings, against the encoder's forward passes on pixels that are there already."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.measure import Row, alternate, row
from data_prep.datasets.folder import load_folder
from data_prep.embed import embed
from data_prep.encoder import load_encoder
from data_prep.weights import import_open_clip

MODEL, IMAGES, BATCH = "ViT-B-32-quickgelu", 192, 64
SIZE = (500, 375)  # pixels, as Flickr30K's photographs have


def rows() -> Iterator[Row]:
    """Compare embedding a folder, one caption an image, with the two towers' forward passes alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        save_file(
            import_open_clip().create_model(MODEL).state_dict(), folder / "weights.safetensors"
        )  # speed needs no training
        _draw(folder / "images")
        encoder = load_encoder(MODEL, str(folder / "weights.safetensors"), device="cpu", say=lambda text: None)
        corpus = load_folder(folder / "images", say=lambda text: None)
        pixels = torch.stack([encoder.load_image(path) for path in sorted((folder / "images").glob("*.jpg"))])
        tokens = encoder.tokenizer([f"photograph {i}" for i in range(IMAGES)])

        def ours() -> None:
            shutil.rmtree(folder / "set", ignore_errors=True)
            embed(corpus, encoder, folder / "set", batch_size=BATCH, progress=False, say=lambda text: None)

        @torch.inference_mode()
        def theirs() -> None:
            for images, texts in zip(pixels.split(BATCH), tokens.split(BATCH), strict=True):
                encoder.model.encode_image(images)
                encoder.model.encode_text(texts)

        pairs = alternate(ours, theirs)
    work = f"encoding {IMAGES} JPEG files and captions, {MODEL}"
    yield row(work, "the forward passes alone", pairs, 1 / 1.15)


def _draw(folder: Path) -> None:
    """Write photographs' stand-ins: smooth noise, which JPEG needs as long for."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        coarse = rng.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)
    names = [f"{i:04d}.jpg" for i in range(IMAGES)]
    pd.DataFrame({"image": names, "caption": [f"photograph {i}" for i in range(IMAGES)]}).to_csv(
        folder / "captions.csv", index=False
    )
