"""The page of a run: what it says, that user text stays text, and that a browser shows it without help from outside."""

import re
import shutil
import subprocess
from html import escape

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.mining.miner import mine
from experiments.report.page import SHOWN, write_report
from experiments.run.train import run_training
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import neighbours
from rank_xmodal.scorers import folder as ranker_folder
from rank_xmodal.scorers import settings

EVIL = "<script>alert(\"x\")</script> & 'quoted'"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DIRECTIONS = ("t2i", "i2t")


@pytest.fixture(scope="module")
def place(random_set, tmp_path_factory):
    """Return a folder with a trained run in each direction: real pictures, one of them missing, and evil captions."""
    folder = tmp_path_factory.mktemp("report")
    data = random_set(["train"] * 80 + ["test"] * 40, noise=1.2)
    paths = [str(folder / f"{row}.png") for row in range(120)]
    for row, path in enumerate(paths[:-1]):
        Image.new("RGB", (300, 200), (row * 2, 80, 255 - row * 2)).save(path)
    data.images["path"] = paths
    data.texts["text"] = [f"{EVIL} {row}" for row in range(120)]
    stored = data.write(folder / "set")
    for direction in DIRECTIONS:
        plan = settings.parse({"epochs": 15, "lr": 5e-3, "batch_size": 8, "negatives": 20, "device": "cpu"})
        run_training(stored, direction, plan, folder / direction, tracking=None, say=lambda line: None)
    return folder, stored


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_captions_stay_text_and_nothing_is_fetched_from_outside(place, direction):
    page = (place[0] / direction / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert escape(EVIL) in page or escape(EVIL, quote=False) in page
    assert all(uri.startswith("data:image/") for uri in re.findall(r'src="([^"]*)"', page))
    assert not re.findall(r'href="(?!#)', page)
    assert not re.findall(r"url\((?!#)", page)
    assert "<title>" in page
    assert len(page.encode()) < 5_000_000


def test_figures_and_first_places_are_those_of_the_ranker(place):
    folder, data = place
    model, bank, facts = ranker_folder.load(folder / "t2i")
    page = (folder / "t2i" / "report.html").read_text(encoding="utf-8")
    for row in ("clip", "csls", "ranker"):
        assert f"{100 * facts['test'][row]['R@1']:.1f}" in page
    stage = rank_gallery(data, "t2i", "test")
    near = neighbours(data.candidates("t2i"), bank)
    tensors = ListTensors.gather(data, stage.lists, near, torch.device("cpu"), in_bank=False)
    scores = score_lists(model, tensors)
    order = scores.argsort(dim=1, descending=True, stable=True).numpy()
    labels = np.take_along_axis(stage.lists.labels, order, 1) > 0
    after, before = labels.argmax(axis=1) + 1, (stage.lists.labels > 0).argmax(axis=1) + 1
    gain = 1 / after - 1 / before
    assert gain.max() > 0, "the corpus must have a gain to show"
    best = data.texts["text"][stage.lists.query[gain.argmax()]]
    gains = page[page.index("Best gains</h2>") :]
    shown = re.findall(rf"{re.escape(escape(EVIL))} (\d+)", gains.replace("&#39;", "&#x27;"))
    assert shown[0] == best.rsplit(" ", 1)[1], "the largest gain comes first"
    assert "relevant" in gains, "marked by a word, not by colour alone"
    assert SHOWN == 5


def test_a_missing_picture_is_a_gap_with_its_id(place, tmp_path):
    folder, data = place
    for path in folder.glob("*.png"):
        path.rename(tmp_path / path.name)
    try:
        page = write_report(folder / "t2i", data, tmp_path / "bare.html").read_text(encoding="utf-8")
    finally:
        for path in tmp_path.glob("*.png"):
            path.rename(folder / path.name)
    assert "data:image/jpeg" not in page
    assert re.search(r">\s*i(8|9|10|11)\d\s*<", page), "the ids of test images"


def test_a_set_without_pictures_has_a_page_too(random_set, tmp_path):
    data = random_set(["train"] * 60 + ["test"] * 40, noise=1.0).write(tmp_path / "set")
    plan = settings.parse({"epochs": 1, "negatives": 20, "device": "cpu"})
    lists = mine(data, "i2t", negatives=20, pool=40, protocol="natural")
    run_training(data, "i2t", plan, tmp_path / "run", lists=lists, tracking=None, say=lambda line: None)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "listnet" in page
    assert "Image to text" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_the_page(place, tmp_path, width):
    page, picture = place[0] / "t2i" / "report.html", tmp_path / "page.png"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-background-networking", "--disable-gpu",
               f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", f"--window-size={width},1600",
               f"--screenshot={picture}", page.as_uri()]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
    assert pixels.shape[1] == width
    assert (pixels.std(axis=1) > 1).mean() > 0.4, "not a blank page"
