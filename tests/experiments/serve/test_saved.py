"""The page of one search: whole in one file, and its text is text."""

import base64
import io
import re

import pytest
from PIL import Image

from experiments.serve.saved import render, write_page
from experiments.use.searcher import Searcher
from rank_xmodal.data.embedding_set import EmbeddingSet
from tests.experiments.serve.conftest import HARM, quiet


@pytest.fixture(scope="module")
def data(place):
    return EmbeddingSet.open(place / "set")


def answered(searcher, given, k=48, **options):
    return searcher.search(searcher.queries([given]), k, **options)[0]


def test_both_orders_stand_side_by_side_with_pictures_inside(searcher, data, tmp_path):
    answer = answered(searcher, "a red square", 6)
    write_page(tmp_path / "page.html", searcher, answer, text="a red square", data=data)
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="hit"') == 12
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 12
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (48, 48)
    assert "Pictures are left out" not in page
    assert not re.search(r"https?:|src=\"[^d]", page)
    for hit in answer.hits:
        moved = "=" if hit.rank == hit.clip_rank else f"was {hit.clip_rank}"
        assert moved in page


def test_an_image_asks_and_a_harmful_caption_stays_text(place, data, corpora):
    searcher = corpora["i2t"].searcher
    image = place / "photos/3.png"
    page = render(searcher, answered(searcher, image), None, image, data)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert HARM not in page
    assert 'alt="The image that asks: 3.png"' in page


def test_what_would_act_unseen_is_written_out(searcher, data):
    page = render(searcher, answered(searcher, "x", 1), "\u202e\x1b]0;title\x07</title><script>1</script>", None, data)
    assert "\\u202e\\x1b]0;title\\x07&lt;/title&gt;" in page
    assert not re.search("[\u202e\x1b\x07]", page)
    assert "<script" not in page


def test_pictures_of_an_index_need_its_set(place, data):
    """Whoever made an index may have named any file of this machine, and the page is there to be passed on."""
    searcher = Searcher.of_index(place / "index", device="cpu", say=quiet)
    answer = answered(searcher, "a red square", 3)
    assert "data:image" not in render(searcher, answer, "a red square", None, None)
    assert "name the embedding set" in render(searcher, answer, "a red square", None, None)
    assert render(searcher, answer, "a red square", None, data).count("data:image/jpeg") == 6


def test_a_set_that_names_other_files_shows_none_of_them(place, data):
    images = data.images.assign(path=str(place / "photos/1.png"))
    other = EmbeddingSet(data.image_emb, data.text_emb, images, data.texts, data.relevance, {"fingerprint": "x"})
    searcher = Searcher.of_index(place / "index", device="cpu", say=quiet)
    answer = answered(searcher, "a red square", 2)
    assert "data:image" not in render(searcher, answer, "a red square", None, other)


def test_a_filter_that_nothing_passes_is_said(searcher, data):
    answer = answered(searcher, "a red square", 3, where={"split": "nowhere"})
    assert (answer.hits, answer.clip, answer.found) == ([], [], 0)
    assert "Nothing passes the filter." in render(searcher, answer, "a red square", None, data)
