"""A small random set, one caption an image, split as asked; and the command line, called in this process."""

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.cli.main import main
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet


@pytest.fixture(scope="session")
def random_set():
    """Return a function from split names, one an image, to an embedding set in memory."""

    def make(splits, noise=0.5, d=8):
        rng = np.random.default_rng(0)
        image = rng.normal(size=(len(splits), d))
        text = image + noise * rng.normal(size=image.shape)
        image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        rows = range(len(splits))
        return EmbeddingSet(
            image.astype(np.float16),
            text.astype(np.float16),
            pd.DataFrame({"image_id": [f"i{k}" for k in rows], "path": "", "split": splits}),
            pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": [f"c{k}" for k in rows], "split": splits}),
            pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
            {"name": "random", "fingerprint": "random"},
        )

    return make


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run():
    """Return a function that runs the command line with these arguments and checks how it ended."""

    def call(*arguments, code=0):
        try:
            main([str(argument) for argument in arguments])
            ended = 0
        except SystemExit as stop:
            ended = stop.code or 0
        assert ended == code, arguments

    return call


@pytest.fixture(scope="session")
def two_kinds(tmp_path_factory):
    """Return a folder with runs cca-t2i and csls-i2t, on CCA, and their set: labelled, images 7 and texts 4 wide."""
    folder = tmp_path_factory.mktemp("two-kinds")
    rng = np.random.default_rng(0)
    count = 160
    rows, kind = range(count), rng.integers(0, 3, count)
    known = np.eye(3)[kind] + 0.3 * rng.normal(size=(count, 3))
    image, text = (
        (known @ rng.normal(size=(3, width)) + 0.1 * rng.normal(size=(count, width))).astype(np.float32)
        for width in (7, 4)
    )
    shared = {"split": ["train"] * 100 + ["test"] * 60, "labels": [f"class {k}" for k in kind]}
    data = EmbeddingSet(
        image,
        text,
        pd.DataFrame({"image_id": [f"i{k}" for k in rows], "path": "", **shared}),
        pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": [f"c{k}" for k in rows], **shared}),
        pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
        {"name": "two kinds", "fingerprint": "two kinds", "aligned": False},
    ).write(folder / "set")
    for name, direction, plan in (
        ("cca-t2i", "t2i", {"scorer": "cca"}),
        ("csls-i2t", "i2t", {"scorer": "csls", "on": "cca"}),
    ):
        settings = scorers.parse({**plan, "device": "cpu"})
        run_training(data, direction, settings, folder / name, tracking=None, say=lambda line: None)
    return folder, data
