"""The page's files: they ask no other host, and put nothing from a corpus in as HTML."""

import re
from html.parser import HTMLParser
from pathlib import Path

import experiments.serve

FOLDER = Path(experiments.serve.__file__).parent / "page"
SCRIPT = (FOLDER / "app.js").read_text()
HTML = (FOLDER / "index.html").read_text()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.feed(HTML)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_every_file_is_served_as_what_it_is(client):
    for path, kind in {
        "/": "text/html", "/page/app.js": "text/javascript", "/page/style.css": "text/css",
        "/page/icon.svg": "image/svg+xml",
    }.items():  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
    assert client.get("/").text == HTML


def test_no_file_names_another_host():
    for file in FOLDER.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(", text), file


def test_nothing_is_put_in_as_html_and_the_policy_holds():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|srcdoc", SCRIPT)
    for tag, attributes in Tags().tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag != "script" or attributes["src"] == "/page/app.js"
    assert re.search(r"<script[^>]*></script>", HTML), "no script inside the page: its policy would stop it"


def test_every_field_has_a_label_and_every_element_that_the_script_asks_for_is_there():
    tags = Tags().tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\bat\("([a-z-]+)"\)', SCRIPT)) <= set(ids)
    labelled = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    assert {"q", "file"} <= labelled
    assert 'aria-live="polite"' in HTML
    assert 'role="alert"' in HTML
    assert '<html lang="en">' in HTML


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_is_readable_in_both_schemes():
    """WCAG AA: 4.5 to 1."""
    css = (FOLDER / "style.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for ink, ground in (
            ("ink", "paper"), ("quiet", "paper"), ("quiet", "card"), ("quiet", "tile"), ("good", "card"),
            ("bad", "card"), ("bad", "bad-wash"), ("good-ink", "good"),
        ):  # fmt: skip
            light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
