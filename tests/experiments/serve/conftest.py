"""A small corpus whose captions mean harm, runs of both directions, an index, and a client."""

import shutil

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from data_prep.datasets.corpus import Corpus, image_table, relevance_table, text_table
from data_prep.embed import embed
from data_prep.encoder import load_encoder
from experiments.run.train import run_training
from experiments.serve.app import make_app
from experiments.serve.corpora import open_corpora
from experiments.serve.limits import Limits
from experiments.use.searcher import Searcher
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.retrieval.query_bank import own_queries
from rank_xmodal.use.reranker import Reranker

SPLITS = ["train"] * 24 + ["val"] * 8 + ["test"] * 16
HARM = "<img src=x onerror=alert(1)>"
COLOURS = {"red": (200, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 200), "yellow": (230, 210, 30)}


def quiet(line):
    pass


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return a folder with `photos`, `set`, runs `t2i` and `i2t`, and an `index` of the first."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    names, texts = [], []
    for row in range(len(SPLITS)):
        colour = list(COLOURS)[row % 4]
        pixels = np.full((48, 48, 3), COLOURS[colour]) + rng.integers(-15, 15, (48, 48, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / f"{row}.png")
        names.append(f"{row}.png")
        texts.append(f"a {colour} square, number {row}")
    texts[40] = HARM
    ids = [str(row) for row in range(len(SPLITS))]
    corpus = Corpus(
        "made", image_table(ids, names, SPLITS), text_table(ids, texts, SPLITS), relevance_table(range(len(SPLITS))),
        folder / "photos",
    )  # fmt: skip
    encoder = load_encoder("scenes-clip", "scenes", "cpu", say=quiet)
    data = embed(corpus, encoder, folder / "set", progress=False, say=quiet)
    for direction in ("t2i", "i2t"):
        settings = scorers.parse({"scorer": "csls", "device": "cpu"})
        run_training(data, direction, settings, folder / direction, tracking=None, say=quiet)
    make_index(folder, folder / "index")
    return folder


def make_index(place, path, direction="t2i"):
    """Save an index as `rank-xmodal index` does."""
    data = EmbeddingSet.open(place / "set")
    columns = {"path": image_files(data)} if direction == "t2i" else {"text": data.texts["text"].tolist()}
    columns |= {"split": SPLITS, "height": [48] * len(SPLITS)}
    ids = (data.images["image_id"] if direction == "t2i" else data.texts["text_id"]).tolist()
    reranker = Reranker.from_pretrained(place / direction, "cpu")
    own = own_queries(data, direction, np.arange(len(ids)), reranker.stack.bank)
    reranker.index(np.asarray(data.candidates(direction)), ids=ids, metadata=columns, own=own).save(path)


@pytest.fixture
def index(place, tmp_path):
    """Return a copy of the index, to change."""
    return shutil.copytree(place / "index", tmp_path / "index")


@pytest.fixture(scope="session")
def corpora(place):
    """Return both directions, warm."""
    data = EmbeddingSet.open(place / "set")
    return open_corpora([place / "t2i", place / "i2t"], data, device="cpu", say=quiet)


@pytest.fixture
def client(corpora):
    with connected(corpora) as opened:
        yield opened


def connected(corpora, limits=None, client=("127.0.0.1", 50_000), **options):
    """Return a client of a server, to be used in a `with`."""
    app = make_app(corpora, limits or Limits(rate=0), **options)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False, client=client)


@pytest.fixture(scope="session")
def searcher(place):
    return Searcher.of_run(place / "t2i", EmbeddingSet.open(place / "set"), device="cpu", say=quiet)
