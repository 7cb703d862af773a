"""The page in a real headless browser: typing, dropping, keys, and what it says when something goes wrong."""

import json
import threading
import time
import urllib.request

import pytest
import uvicorn

from experiments.serve import server
from experiments.serve.app import make_app
from experiments.serve.limits import Limits
from tests.experiments.serve.browser import CHROMIUM, Browser
from tests.experiments.serve.conftest import HARM

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
SHOWN = "!document.getElementById('results').hidden && results.ariaBusy === 'false'"
ERROR = "document.getElementById('error').textContent"


@pytest.fixture(scope="module")
def site(corpora):
    """Return the address of a server of both directions."""
    bound = server.listen("127.0.0.1", 0)
    config = uvicorn.Config(make_app(corpora, Limits(rate=0)), log_level="warning", access_log=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    running.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def visit(browser, site):
    """Return a function that opens the page, ready to be asked."""
    pages = []

    def opened(path="/", **options):
        page = browser.page(site + path, **options)
        pages.append(page)
        page.wait("!!document.getElementById('served').textContent")
        return page

    yield opened
    for page in pages:
        page.close()


def searched(site, text):
    request = urllib.request.Request(
        f"{site}/search", json.dumps({"text": text}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def labels(page, order):
    return page.run(f"[...document.querySelectorAll('#{order} .hit')].map((hit) => hit.ariaLabel)")


def focused(page):
    return page.run("document.activeElement.ariaLabel ?? document.activeElement.id")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_query_is_typed_and_an_image_dropped(visit, site, place, width, scheme):
    page = visit(width=width, scheme=scheme)
    page.type("a blue square")
    page.wait("location.search === '?q=a+blue+square'")  # from then on it is busy with all of it
    page.wait(SHOWN)
    page.wait("[...document.images].filter((one) => one.className && one.complete && one.naturalWidth).length >= 4")
    told = searched(site, "a blue square")
    assert labels(page, "ranker") == [f"{hit['rank']}: {hit['id']}; was {hit['clip_rank']}" for hit in told["hits"]]
    assert labels(page, "clip") == [f"{hit['clip_rank']}: {hit['id']}; now {hit['rank']}" for hit in told["clip"]]
    moved = sum(hit["rank"] != hit["clip_rank"] for hit in told["hits"])
    status = page.run("document.getElementById('status').textContent")
    assert status.startswith(f"48 candidates put in order, {moved} of the best 10 moved")
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.run(wide) <= 0
    paper = page.run("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(", ")
    assert (int(paper[0]) < 128) == (scheme == "dark")

    page.drop("#served", [place / "photos/2.png"])
    page.wait(f"{SHOWN} && results.className === 'captions'")
    page.run("k.value = 50, k.dispatchEvent(new Event('change', {bubbles: true})), 0")
    page.wait("document.querySelectorAll('#ranker .hit').length === 48")
    assert HARM in page.run("document.getElementById('ranker').textContent")
    assert page.run("document.querySelectorAll('img[src=x]').length") == 0
    assert page.run(wide) <= 0
    asked = {event["request"]["url"] for event in page.events("Network.requestWillBeSent")}
    assert all(url.startswith((f"{site}/", f"blob:{site}/", "about:")) for url in asked), asked
    assert not page.events("Runtime.exceptionThrown")
    assert not page.events("Log.entryAdded")


def test_hits_are_reached_by_keys_alone(visit):
    page = visit("/?q=red")
    page.wait(SHOWN)
    ranker = labels(page, "ranker")
    for key, place in (("ArrowDown", 0), ("ArrowRight", 1), ("End", 9), ("Home", 0)):
        page.press(key)
        assert focused(page) == ranker[place]
    page.press("Tab")
    assert focused(page) == labels(page, "clip")[0]
    page.press("/")
    assert focused(page) == "q"
    page.press("Escape")
    page.wait("!document.getElementById('empty').hidden && !q.value")


def test_keys_of_a_list_and_of_an_input_method_leave_the_query(visit):
    page = visit("/?q=red")
    page.run("q.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', isComposing: true, bubbles: true}))")
    assert page.run("q.value") == "red"
    page.run("document.querySelector('#filters select').focus()")
    page.press("Escape")
    assert page.run("q.value") == "red"


def test_text_can_be_dropped_where_text_is_typed_and_a_link_is_no_image(visit):
    page = visit()
    page.drop("#q", text_plain="red")
    page.wait("q.value === 'red'")
    page.wait(SHOWN)
    page.drop("#served", text_plain="http://127.0.0.1:9/a.png")
    page.wait(f"{ERROR}.startsWith('That is no file.')")
    page.drop("#served", [__file__])
    page.wait(f"{ERROR}.includes('test_browser.py is no image.')")


@pytest.mark.parametrize("by", ["constructor", "__proto__", "nothing"])
def test_an_address_that_names_no_direction_is_as_none(visit, by):
    page = visit(f"/?by={by}&q=red")
    page.wait(SHOWN)
    assert not page.events("Runtime.exceptionThrown")


def test_a_late_answer_to_an_earlier_query_is_dropped(visit, site):
    page = visit()
    page.run("""{
      const own = window.fetch;
      window.late = 0;
      window.fetch = async (path, options) => {
        const answer = await own(path, {...options, signal: undefined});
        if (options.body.includes('"red"')) {
          await new Promise((done) => setTimeout(done, 800));
          window.late += 1;
        }
        return answer;
      };
    }""")
    page.type("red")
    page.wait("location.search === '?q=red'")
    page.run("q.select()")
    page.type("a blue square")
    page.wait("window.late === 1")
    page.wait(f"{SHOWN} && location.search === '?q=a+blue+square'")
    assert labels(page, "ranker")[0].startswith(f"1: {searched(site, 'a blue square')['hits'][0]['id']};")


def test_a_search_by_image_is_tried_again_and_what_was_removed_leaves_the_keys_where_they_were(visit, place):
    page = visit()
    page.run("{ const own = fetch; window.fetch = () => { window.fetch = own; return Promise.reject(new Error()); } }")
    page.drop("#served", [place / "photos/2.png"])
    page.wait(f"{ERROR}.startsWith('The server doesn’t answer.')")
    page.run("again.click()")
    page.wait(SHOWN)
    assert page.run("again.hidden && error.hidden")
    page.run("remove.focus(), remove.click()")
    assert focused(page) == "file"


def test_a_phones_photo_is_left_to_the_server_to_judge(visit):
    page = visit()
    page.run("""{
      const given = new DataTransfer();
      given.items.add(new File(["no photo"], "IMG_0001.HEIC", { type: "" }));
      document.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
    }""")
    page.wait(f"{ERROR}.startsWith('image: not an image')")


@pytest.mark.parametrize("width", [1200, 400])
def test_a_probability_leaves_room_for_the_score(visit, width):
    page = visit(width=width)
    page.run("""{
      const own = window.fetch;
      window.fetch = async (...asked) => {
        const answer = await own(...asked);
        const told = await answer.json();
        for (const hit of told.hits ?? []) hit.probability = 0.5;
        return new Response(JSON.stringify(told));
      };
    }""")
    page.type("red")
    page.wait(SHOWN)
    told = "document.querySelector('#ranker .told')"
    assert page.run(f"{told}.textContent").startswith("p 0.50 · cos ")
    assert page.run(f"{told}.scrollWidth <= {told}.clientWidth")


@pytest.mark.parametrize(
    ("answer", "said", "again"),
    [
        ("new Response('Service Unavailable', {status: 503})", "The server can’t answer just now (503).", False),
        ("new Response('{\"error\": \"too often\"}', {status: 429, headers: {'retry-after': '1'}})", "too often", True),
        ("Promise.reject(new TypeError('gone'))", "The server doesn’t answer. Is it still running?", False),
    ],
)
def test_what_goes_wrong_is_said_and_goes_away(visit, answer, said, again):
    page = visit()
    page.run(f"{{ const own = fetch; window.fetch = () => {{ window.fetch = own; return {answer}; }} }}")
    page.type("red")
    page.wait(f"{ERROR}.startsWith({said!r})")
    assert page.run("results.ariaBusy") == "false"
    if not again:
        page.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r", windowsVirtualKeyCode=13)
    page.wait(SHOWN)
    assert page.run("document.getElementById('error').hidden")
