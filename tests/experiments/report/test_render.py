"""Templates: whatever text goes in comes out as text, and nothing that is missing goes unseen."""

from html import unescape
from pathlib import Path

import jinja2
import pytest

from experiments.report import render as rendering
from experiments.report.render import capital, percent, render

TEMPLATES = Path(rendering.__file__).parent / "templates"


@pytest.fixture
def rendered(monkeypatch):
    """Return a function that renders a template's source in the environment that every page is made in."""

    def from_source(source, **values):
        environment = rendering._environment().overlay(loader=jinja2.DictLoader({"t": source}))
        monkeypatch.setattr(rendering, "_environment", lambda: environment)
        return render("t", **values)

    return from_source


def test_text_is_escaped_whatever_the_templates_name(rendered):
    evil = "</p><script>alert(\"x\")</script> & 'quoted'"
    page = rendered('<p title="{{ x }}">{{ x }}</p>', x=evil)
    assert page.count("<") == 2
    assert page.count('"') == 2
    assert unescape(page) == f'<p title="{evil}">{evil}</p>'


@pytest.mark.parametrize("sign", [*map(chr, [*range(32), *range(127, 160)]), *"\u202a\u202e\u2066\u2069\ud800\udfff"])
def test_control_characters_never_reach_the_page(rendered, sign):
    for source in ("{{ x }}", "{{ x|e }}", "{% set y %}{{ x }}{% endset %}{{ y ~ x }}"):
        page = rendered(source, x=f"a{sign}b")
        assert sign == "\n" or sign not in page
        assert page.encode().startswith(b"a")
        assert page[1] in " \n\ufffd"


def test_marks_that_right_to_left_text_needs_stay(rendered):
    text = "שלום \u200fעולם\u200e, مرحبا"
    assert rendered("{{ x }}", x=text) == text


def test_what_is_missing_is_an_error(rendered):
    with pytest.raises(jinja2.UndefinedError):
        rendered("{{ nothing_of_this_name }}")


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.j2")), ids=lambda path: path.name)
def test_no_template_turns_escaping_off_or_fetches_anything(path):
    source = path.read_text(encoding="utf-8")
    for word in ("|safe", "| safe", "autoescape", "http:", "https:", "<script", "javascript"):
        assert word not in source


def test_a_share_never_breaks_before_its_sign():
    assert percent(0.1234) == "12.3\u00a0%"


def test_labels_begin_a_line_as_they_are_spelt():
    assert [capital(x) for x in ("ranker", "centred cosine", "CLIP", "allRank", "VSE++")] == [
        "Ranker", "Centred cosine", "CLIP", "allRank", "VSE++"
    ]  # fmt: skip
