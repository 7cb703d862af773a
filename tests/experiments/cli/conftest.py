"""A small corpus with the encoder that the repository ships."""

import pytest

from data_prep.datasets.scenes import load_scenes
from data_prep.embed import embed
from data_prep.embed_tokens import embed_tokens
from data_prep.encoder import load_encoder
from data_prep.local import LocalEncoder

FEW = {"train": 300, "val": 60, "test": 200}


def quiet(line):
    pass


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return a folder with a small corpus `data`, embedded with the encoder that the repository ships, and tokens."""
    folder = tmp_path_factory.mktemp("road")
    corpus = load_scenes(folder / "scenes", counts=FEW, say=quiet)
    encoder = load_encoder("scenes-clip", "scenes", "cpu", say=quiet)
    data = embed(corpus, encoder, folder / "data", progress=False, say=quiet)
    embed_tokens(corpus, LocalEncoder(encoder, "features"), data, say=quiet)
    return folder
