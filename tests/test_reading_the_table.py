"""The example behind docs/reading-the-table.md: the page says what it prints, and why CLIP's row is so low."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("reading_the_table", DOCS / "reading_the_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_its_example_prints(example, capsys):
    example.main()
    printed = capsys.readouterr().out.splitlines()
    page = (DOCS / "reading-the-table.md").read_text().splitlines()
    assert len(printed) == 12
    for line in printed:
        assert "    " + line in page


def test_a_half_and_a_fifth(example):
    data = example.corpus()
    text, image = (list(example.rows(data, direction).values()) for direction in ("t2i", "i2t"))
    whole, unprotected = text[0], text[4]
    assert unprotected[0] == pytest.approx(whole[0] / 2, abs=2)
    assert unprotected[2] == pytest.approx(whole[2], abs=1)
    assert image[2][0] == pytest.approx(image[0][0] / 5, abs=2)
