"""A trained run in each direction, with pictures, and its evaluation."""

import pytest
from PIL import Image

from data_prep.images import files_digest
from experiments.results.evaluate import evaluate_run
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.use.reranker import Reranker

EVIL = "<script>alert(\"x\")</script> & 'quoted'"


@pytest.fixture(scope="session")
def place(random_set, tmp_path_factory):
    """Return a folder with a run in each direction, and their set: real pictures, one missing, and evil captions."""
    folder = tmp_path_factory.mktemp("report")
    data = random_set(["train"] * 80 + ["test"] * 40, noise=1.2)
    paths = [str(folder / f"{row}.png") for row in range(120)]
    for row, path in enumerate(paths[:-1]):
        Image.new("RGB", (300, 200), (row * 2, 80, 255 - row * 2)).save(path)
    data.images["path"] = paths
    data.meta["image_files"] = {"test": files_digest(paths[80:])}
    data.texts["text"] = [f"{EVIL} {row}" for row in range(120)]
    stored = data.write(folder / "set")
    for direction in ("t2i", "i2t"):
        plan = scorers.parse({"epochs": 15, "lr": 5e-3, "batch_size": 8, "negatives": 20, "device": "cpu"})
        run_training(stored, direction, plan, folder / direction, tracking=None, say=lambda line: None)
    return folder, stored


@pytest.fixture(scope="session")
def judged(place):
    """Return each run's config.json and its evaluation, by direction."""
    folder, data = place
    runs = {direction: Reranker.from_pretrained(folder / direction, "cpu") for direction in ("t2i", "i2t")}
    return {direction: (run.facts, evaluate_run(run, data, "test")) for direction, run in runs.items()}
