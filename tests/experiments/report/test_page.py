"""The page of a run: what it says, that user text stays text, and that a browser shows it without help from outside."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.mining.miner import mine
from experiments.report import page as pages
from experiments.report.gallery import CANDIDATES
from experiments.report.page import report_of_run, write_report
from experiments.results.result import Result
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.evaluation.judging import judge
from rank_xmodal.evaluation.significance import holm, paired_p
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers import folder as ranker_folder

EVIL = "<script>alert(\"x\")</script> & 'quoted'"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DIRECTIONS = ("t2i", "i2t")


@pytest.fixture
def written(place, judged, tmp_path):
    """Return a function that writes a run's page, with other facts or another result, and reads it."""

    def read(direction="t2i", name="run", data=None, result=None, **facts):
        own, found = judged[direction]
        out = write_report(tmp_path / "page.html", name, data or place[1], {**own, **facts}, result or found)
        return out.read_text(encoding="utf-8")

    return read


def rejudged(result, calibration=None, first_stage=None, **scores):
    """Return a result with other rows: `scores` by row, the run's own last."""
    gallery = result.gallery
    if first_stage:
        lists = replace(gallery.lists, info={**gallery.lists.info, "first_stage": first_stage})
        gallery = replace(gallery, lists=lists)
    return Result(gallery, scores, *judge(scores, gallery, calibration))


def text_of(page):
    """Return what a reader sees of a page, in one line."""
    body = re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", page[page.index("<body>") :])
    return re.sub(r"[ \n]+([.,;:)])", r"\1", re.sub(r"[ \n]+", " ", unescape(body))).strip()


def headline(page):
    return text_of("<body>" + re.search(r'(?s)<p class="result">.*?</p>', page).group())


class Elements(HTMLParser):
    """Every element of a page with its attributes; a page that isn't well nested fails."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_captions_stay_text_and_nothing_is_fetched_from_outside(place, direction):
    page = (place[0] / direction / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    elements = Elements(page)
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in elements.of("img"))
    assert not elements.of("link", "script", "iframe", "object", "form", "base")
    assert all(a["href"].startswith("#") for a in elements.of("a"))
    assert not re.findall(r"url\((?!#)|@import", page)
    policy = next(a["content"] for a in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not [a for _, a in elements.found if any(name.startswith("on") for name in a)]
    assert "<title>" in page
    assert len(page.encode()) < 5_000_000


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_whatever_is_named_by_a_user_stays_text(place, written, direction):
    evil = f'"> {EVIL} \x1b[31m\x07\x85 \u202egnp.\u2066 שלום'
    data = place[1]
    data = replace(
        data,
        images=data.images.assign(image_id=[f"{evil}{k}" for k in range(120)], path=""),
        texts=data.texts.assign(text_id=[f"{evil}{k}" for k in range(120)], text=[f"{evil}{k}" for k in range(120)]),
        meta={**data.meta, "name": evil},
    )
    page = written(
        direction, f"{evil}\ud800", data, settings={evil: evil, "list": [evil], "more": {evil: evil}},
        encoder={"encoder": evil, "pretrained": evil}, versions={evil: evil}, model={}, mlflow_run=evil,
    )  # fmt: skip
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "<script" not in page
    elements = Elements(page)
    assert not elements.of("script")
    safe = f'"> {EVIL} \ufffd[31m\ufffd \ufffdgnp.\ufffd שלום'
    assert any(a.get("data-id", "").startswith(safe[:40]) for a in elements.of("li"))
    assert safe in re.sub(" +", " ", unescape(page))
    assert "<bdi>" in page, "a name that runs right to left must not turn what stands around it"


def test_figures_and_first_places_are_those_of_the_ranker(place):
    folder, data = place
    stack, facts = ranker_folder.load(folder / "t2i")
    page = (folder / "t2i" / "report.html").read_text(encoding="utf-8")
    for row in ("clip", "csls", "ranker"):
        assert f"{100 * facts['test'][row]['R@1']:.1f}" in page
    stage = rank_gallery(data, "t2i", "test")
    near = stack.neighbours(data.candidates("t2i"))
    tensors = ListTensors.gather(data, stage.lists, near.of, torch.device("cpu"), in_bank=False)
    scores = score_lists(stack.scorer, tensors)
    order = scores.argsort(dim=1, descending=True, stable=True).numpy()
    labels = np.take_along_axis(stage.lists.labels, order, 1) > 0
    after, before = labels.argmax(axis=1) + 1, (stage.lists.labels > 0).argmax(axis=1) + 1
    gain = 1 / after - 1 / before
    assert gain.max() > 0, "the corpus must have a gain to show"
    best = data.texts["text"][stage.lists.query[gain.argmax()]]
    gains = unescape(page[page.index("Best gains</h2>") :])
    shown = re.findall(rf"“{re.escape(EVIL)} (\d+)”", gains)
    assert shown[0] == best.rsplit(" ", 1)[1], "the largest gain comes first"
    lists = re.findall(r'(?s)<ol data-by="(\w+)">(.*?)</ol>', gains)
    assert [by for by, _ in lists[:2]] == ["clip", "ranker"]
    firsts = [data.images["image_id"][stage.lists.candidates[gain.argmax(), k]] for k in order[gain.argmax()]]
    assert re.findall(r'data-id="([^"]*)"', lists[1][1]) == firsts[:5]
    assert CANDIDATES == 5


def test_what_is_relevant_is_marked_by_more_than_colour_and_every_picture_has_a_name(place):
    for direction in DIRECTIONS:
        page = (place[0] / direction / "report.html").read_text(encoding="utf-8")
        hits = re.findall(r'(?s)<li class="hit".*?</li>', page)
        assert hits
        assert all('✓<span class="unseen"> relevant</span>' in hit for hit in hits)
        assert "✓" not in re.sub(r'(?s)<li class="hit".*?</li>|<p class="note">.*?</p>', "", page)
        elements = Elements(page)
        assert all(re.match(r"Image i\d+: ", a["alt"]) for a in elements.of("img"))
        assert all(": " in a["aria-label"] for a in elements.of("svg"))
        assert len(elements.of("svg")) >= 2
        moved = re.findall(r'<span aria-hidden="true">([=▲▼]\d*)</span><span class="unseen">([^<]*)</span>', page)
        assert moved
        ways = {"=": "as by CLIP", "▲": "up", "▼": "down"}
        assert all(told.endswith(ways[arrow[0]]) and told.startswith(arrow[1:]) for arrow, told in moved)


def test_a_missing_picture_is_a_gap_with_its_id(place, tmp_path):
    folder, data = place
    for path in folder.glob("*.png"):
        path.rename(tmp_path / path.name)
    try:
        page = report_of_run(folder / "t2i", data, tmp_path / "bare.html", device="cpu").read_text(encoding="utf-8")
    finally:
        for path in tmp_path.glob("*.png"):
            path.rename(folder / path.name)
    assert "data:image/jpeg" not in page
    gaps = [a for a in Elements(page).of("span") if a.get("class") == "gap"]
    assert gaps
    assert all(re.fullmatch(r"Image i(8|9|10|11)\d, no picture at hand", gap["aria-label"]) for gap in gaps)


def test_a_set_without_pictures_has_a_page_too(random_set, tmp_path):
    data = random_set(["train"] * 60 + ["test"] * 40, noise=1.0).write(tmp_path / "set")
    plan = scorers.parse({"epochs": 1, "negatives": 20, "device": "cpu", "features": "embeddings"})
    lists = mine(data, "i2t", negatives=20, pool=40, protocol="natural")
    run_training(data, "i2t", plan, tmp_path / "run", lists=lists, tracking=None, say=lambda line: None)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "listnet" in page
    assert "Image to text · Context-Aware Ranker" in page


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_finished_runs_page_is_written_again_as_it_was(place, tmp_path, direction):
    folder, data = place
    out = report_of_run(folder / direction, data, tmp_path, device="cpu")
    assert out == tmp_path / "report.html", "a folder gets report.html"
    assert out.read_bytes() == (folder / direction / "report.html").read_bytes()


def test_another_set_and_a_run_without_a_test_are_refused(place, random_set, tmp_path):
    folder, _ = place
    other = random_set(["train"] * 30 + ["test"] * 10, noise=0.9).write(tmp_path / "other")
    with pytest.raises(UserError, match=r"was trained on another embedding set .*Name the one it was trained on"):
        report_of_run(folder / "t2i", other, tmp_path / "page.html")
    plan = scorers.parse({"scorer": "csls"})
    untested = random_set(["train"] * 30).write(tmp_path / "untested")
    run_training(untested, "t2i", plan, tmp_path / "run", tracking=None, say=lambda line: None)
    with pytest.raises(UserError, match=r"was never tested, for the set had no test split\. There is nothing to"):
        report_of_run(tmp_path / "run", untested, tmp_path / "page.html")
    with pytest.raises(UserError, match="holds no trained ranker"):
        report_of_run(tmp_path / "nothing", other, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_writing_a_page_scores_nothing_again_and_imports_no_plotting(place, judged, written, monkeypatch):
    def forbidden(*args, **keywords):
        raise AssertionError("scored again")

    for target in ("rank_xmodal.scorers.stack.score_lists", "rank_xmodal.evaluation.judging.per_query",
                   "rank_xmodal.retrieval.gallery.rank_gallery", "rank_xmodal.scorers.base.Scorer.fit"):  # fmt: skip
        monkeypatch.setattr(target, forbidden)
    assert "Best gains" in written()
    code = (
        "import sys; from pathlib import Path\n"
        "from experiments.report.page import report_of_run\n"
        "from rank_xmodal.data.embedding_set import EmbeddingSet\n"
        "assert 'jinja2' not in sys.modules, 'not every command writes a page'\n"
        f"report_of_run(Path({str(place[0] / 't2i')!r}), EmbeddingSet.open(Path({str(place[1].root)!r})), "
        f"Path({str(place[0] / 'again.html')!r}), device='cpu')\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_headline_names_the_best_of_the_other_rows_and_clip(judged, written):
    _, result = judged["t2i"]
    better = torch.from_numpy(result.gallery.lists.labels).float()  # always right
    clip = result.scores["clip"]
    own = clip + 0.03 * better
    found = rejudged(result, clip=clip, vsepp=better, csls=clip, ranker=own)
    values = {row: found.values[row]["R@1"].numpy() for row in found.values}
    p = holm(np.array([paired_p(values["ranker"], values[row]) for row in ("vsepp", "clip")]))
    said = headline(written(result=found))
    share = {row: f"{100 * found.report[row]['R@1']:.1f}\u00a0%" for row in values}
    down, up = (100 * (found.report["ranker"]["R@1"] - found.report[row]["R@1"]) for row in ("vsepp", "clip"))
    told = [f"p\u00a0=\u00a0{x:.3f}" if x >= 0.001 else "p\u00a0<\u00a00.001" for x in p]
    luck = [", so luck could explain the difference" if x >= 0.05 else "" for x in p]
    assert down < 0 < up
    assert said == (
        f"The ranker’s R@1 is {share['ranker']}: {-down:.1f}\u00a0points below VSE++, the best of the others "
        f"({share['vsepp']}, {told[0]}{luck[0]}) and {up:.1f}\u00a0points above CLIP "
        f"({share['clip']}, {told[1]}{luck[1]})."
    )


def test_the_headline_says_it_once_where_clip_is_the_best(judged, written):
    _, result = judged["t2i"]
    clip = result.scores["clip"]
    page = written(result=rejudged(result, clip=clip, csls=-clip, ranker=clip))
    assert "level with CLIP, the best of the others (" in headline(page)
    assert "p\u00a0=\u00a01.000)." in headline(page), "no difference that luck could explain"
    assert "The p-value is of a paired randomisation test over the queries." in text_of(page)
    page = written(result=rejudged(result, clip=clip, ranker=-clip))
    assert "points below CLIP (" in headline(page)


def test_a_percentage_never_breaks_before_its_sign(written):
    assert not re.findall(r"\d[ \n]%", text_of(written()))
    assert re.findall("\\d\u00a0%", headline(written()))


def test_rows_are_those_of_the_report(judged, written):
    _, result = judged["i2t"]
    clip, own = result.scores["clip"], result.scores["ranker"]
    names = ("csls", "centred", "inverted_softmax", "cca", "dcca", "cmpm", "vsepp", "allrank")
    found = rejudged(result, clip=clip, **{name: clip + k * own for k, name in enumerate(names)}, ranker=own)
    page = written("i2t", result=found)
    heads = re.findall(r'<th scope="row">([^<]*)</th>', page[: page.index("</table>")])
    assert heads == ["CLIP", "CSLS", "Centred cosine", "Inverted softmax", "CCA", "DCCA", "CMPM", "VSE++", "allRank",
                     "Ranker", "Ranker over CLIP"]  # fmt: skip
    bars = [a for a in Elements(page).of("rect") if "--hue" in a.get("style", "")]
    assert len(bars) == 3 * (len(names) + 2)
    assert {a["class"] for a in bars} == {"reference", "other", "own"}
    colours = {(a["class"], a["style"] if a["class"] == "other" else "") for a in bars}
    assert len(colours) == len(names) + 2, "a colour for each row"
    heights = sorted(float(a["y"]) for a in bars)
    assert min(np.diff(heights)) >= 17, "no bar over another, nor its number"


def test_bars_numbers_and_labels_keep_apart_at_100(judged, written):
    _, result = judged["t2i"]
    right = torch.from_numpy(result.gallery.lists.labels).float()
    page = written(result=rejudged(result, clip=right, csls=right, ranker=right))
    inside = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="end" class="inside \w+">100.0</text>', page)
    assert len(inside) == 9
    assert min(np.diff(sorted(float(y) for _, y in inside))) >= 17
    assert "No query’s first relevant candidate rose." in page
    assert "No query’s first relevant candidate fell." in page


def test_the_table_says_what_it_shows_outside_of_what_scrolls(written):
    page = written()
    assert re.search(r'<table class="figures" aria-describedby="about-figures">', page)
    assert page.index("</table>") < page.index('id="about-figures"')
    assert "<caption>" not in page[page.index('class="figures"') : page.index("</table>")]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"trained_on": ["train"], "best_epoch": 2}, "The ranker is that of epoch 2."),
        ({"trained_on": ["train", "val"], "best_epoch": 2},
         "Epoch 2 was best; the ranker was then trained again on train and val, up to epoch 2."),
        ({"trained_on": ["train"], "best_epoch": None}, "epoch 0 is before training."),
    ],
)  # fmt: skip
def test_the_page_says_which_epoch_it_is_of(written, facts, told):
    history = [{"epoch": k, "loss": 2.0 - k, "val_R@1": 0.5 + k / 10, "val_MRR": 0.6 + k / 10} for k in range(4)]
    page = written(history=history, **facts)
    caption = text_of("<body>" + re.findall(r"(?s)<figcaption>.*?</figcaption>", page)[3])
    assert caption.startswith("Validation by epoch, in %; epoch 0 is before training.")
    assert caption.endswith(told)
    assert (">kept<" in page, ">best<" in page) == ("that of" in told, "again" in told)
    assert "Training loss by epoch, from 2 down to -1." in page


def test_what_has_no_epochs_has_no_curves(written):
    page = written(scorer="csls", history=[], best_epoch=None, trained_on=["train", "val"], model={}, settings={})
    assert "Text to image · CSLS" in page
    assert "Training loss" not in page
    assert "Validation" not in page
    assert '<th scope="row">best epoch</th><td>none</td>' in page
    only_mrr = [{"epoch": k, "loss": 1.0, "val_MRR": 0.5} for k in range(3)]
    assert "Validation by epoch: MRR, %; epoch 0" in written(scorer="vsepp", history=only_mrr)


def test_the_first_stage_is_called_by_its_name(judged, written):
    facts, result = judged["t2i"]
    assert "CLIP finds the top\u00a040, the ranker puts these into a new order." in text_of(written())
    own = rejudged(result, first_stage="vsepp", **result.scores)
    page = written(result=own, settings={**facts["settings"], "on": "vsepp"})
    assert "VSE++ finds the top\u00a040, the ranker puts these into a new order." in text_of(page)
    assert "Context-Aware Ranker on VSE++" in page
    assert "The ranker finds the top\u00a040 itself" in text_of(written(result=own, scorer="vsepp"))


def test_a_calibrated_run_shows_how_well(judged, written):
    _, result = judged["t2i"]
    assert "Calibration error" not in written()
    page = written(result=rejudged(result, Calibration(1.0, 0.1, 0.0), **result.scores))
    assert "Calibration error 0." in page
    assert "pairs of mean probability" in page


def test_a_page_stays_below_its_limit_with_smaller_pictures(written, monkeypatch):
    whole = written()
    widths = {int(a["width"]) for a in Elements(whole).of("img")}
    assert widths == {160}
    monkeypatch.setattr(pages, "LIMIT", len(whole.encode()) - 40_000)
    smaller = written()
    assert len(smaller.encode()) < len(whole.encode())
    monkeypatch.setattr(pages, "LIMIT", 0)
    smallest = written()
    assert {int(a["width"]) for a in Elements(smallest).of("img")} == {48}, "a page over the limit is better than none"
    assert text_of(smallest) == text_of(whole)


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
