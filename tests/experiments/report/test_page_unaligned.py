"""The page of a run on features of two kinds: nothing on it is called CLIP's."""

import re
from html import unescape

import pytest

from experiments.report.page import report_of_run

# CSS names no row; settings and versions are shown as they are.
KNOWN = (r"(?s)<style>.*?</style>", r"open_clip_torch", r'<th scope="row">on</th><td>clip</td>')


def text_of(page):
    return re.sub(r"[ \n]+", " ", unescape(re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", page)))


@pytest.fixture(params=["cca-t2i", "csls-i2t"])
def written(two_kinds, request):
    """Return a run's name and its page."""
    return request.param, (two_kinds[0] / request.param / "report.html").read_text(encoding="utf-8")


def test_neither_clip_nor_a_cosine_is_on_the_page_or_in_what_is_read_aloud(written):
    name, page = written
    for known in KNOWN:
        page = re.sub(known, "", page)
    if name.startswith("csls"):
        assert "on CCA" in text_of(page)
    assert not re.findall("(?i).{30}(?:clip|cosine).{30}", page)


def test_what_it_is_held_against_is_a_random_order(written):
    _, page = written
    told = text_of(page)
    assert "above random order (" in told
    assert "Ranker over random order" in told
    assert "from its rank by random order" in told
    moved = re.findall(r'<span class="unseen">(as by [^<]*|\d+ (?:up|down))</span>', page)
    assert "as by random order" in moved
    assert all(way == "as by random order" or way.endswith(("up", "down")) for way in moved)


def test_the_reference_is_grey_and_not_red_as_what_fell(written):
    _, page = written
    bars = re.findall(r'<rect class="(\w+)" style="--hue', page)
    assert bars == ["reference", "own"] * 3
    assert "svg .reference," in page, "the class has a colour"


def test_the_settings_say_what_it_stands_on_and_that_no_encoder_made_it(written):
    name, page = written
    cells = dict(re.findall(r'<th scope="row">([^<]*)</th><td>([^<]*)</td>', page))
    assert cells["encoder"] == "none: features of two kinds"
    assert cells["weights"] == "none"
    on_itself = "nothing: images and texts share no space"
    assert cells["stands on"] == ("CCA" if name.startswith("csls") else on_itself)


def test_who_finds_the_candidates_is_named(written):
    name, page = written
    own = "The ranker finds the top 60 itself, the others put these into a new order."
    other = "CCA finds the top 60, the ranker puts these into a new order."
    assert (other if name.startswith("csls") else own) in text_of(page).replace("\u00a0", " ")


@pytest.mark.parametrize("name", ["cca-t2i", "csls-i2t"])
def test_it_is_written_again_as_it_was(two_kinds, tmp_path, name):
    folder, data = two_kinds
    out = report_of_run(folder / name, data, tmp_path, device="cpu")
    assert out.read_bytes() == (folder / name / "report.html").read_bytes()
