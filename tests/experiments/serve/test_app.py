"""The API: what it answers, and what it says to what it can't."""

import io
import re
import struct
import threading
import zlib

import pytest
from PIL import Image

from experiments.serve.limits import Limits, TokenBuckets
from experiments.serve.metrics import Metrics
from rank_xmodal.errors import UserError
from tests.experiments.serve.conftest import HARM, connected


def ask(client, **body):
    return client.post("/search", json=body)


def send(client, image, **fields):
    return client.post("/search", files={"image": ("a.png", image, "image/png")}, data=fields)


def png(place, row=0):
    return (place / "photos" / f"{row}.png").read_bytes()


def bomb(width, height):
    """Return a PNG of few bytes that says it is large."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_caption_finds_images_in_both_orders(client, searcher):
    told = ask(client, text="a blue square", k=4).json()
    (expected,) = searcher.search(searcher.queries(["a blue square"]), 4)
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in expected.hits]
    assert [hit["rank"] for hit in told["hits"]] == [1, 2, 3, 4]
    assert [hit["clip_rank"] for hit in told["clip"]] == [1, 2, 3, 4]
    assert {hit["id"]: hit["clip_rank"] for hit in told["hits"]} == {hit.id: hit.clip_rank for hit in expected.hits}
    cosines = [hit["cosine"] for hit in told["clip"]]
    assert cosines == sorted(cosines, reverse=True)
    assert told["direction"] == "t2i"
    assert told["found"] == 48
    assert told["timings"]["batch"] == 1
    picture = client.get(told["hits"][0]["image"])
    assert Image.open(io.BytesIO(picture.content)).size == (48, 48)


def test_an_uploaded_image_finds_captions(client, place, corpora):
    told = send(client, png(place, 2), k="3", where='{"split": ["test", "val"]}').json()
    searcher = corpora["i2t"].searcher
    (expected,) = searcher.search(searcher.queries([place / "photos/2.png"]), 3, where={"split": ["test", "val"]})
    assert [hit["text"] for hit in told["hits"]] == [hit.item for hit in expected.hits]
    assert told["hits"][0]["score"] == pytest.approx(expected.hits[0].score, abs=1e-3)
    assert "image" not in told["hits"][0]


def test_captions_are_data_and_never_html(client):
    answer = ask(client, text="x", k=50)
    assert answer.headers["content-type"] == "application/json"
    answer = client.get("/runs")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_harmful_caption_comes_back_as_it_is(client, place):
    told = send(client, png(place), k="48").json()
    assert HARM in [hit["text"] for hit in told["hits"]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "neither text nor image: send one of them"),
        ({"text": "  "}, "text is empty: say what to look for"),
        ({"text": "x" * 10_000}, "text has 10,000 characters, and 1,000 are the most"),
        ({"text": 5}, "text=5: must be a string"),
        ({"text": "a", "k": 0}, "k=0: must be an integer of 1 or more"),
        ({"text": "a", "k": "many"}, "k='many': must be an integer"),
        ({"text": "a", "k": 1.5}, "k=1.5: must be an integer"),
        ({"text": "a", "k": 101}, "k=101: must be an integer from 1 to 100"),
        ({"text": "a", "k": True}, "k=True: must be an integer from 1 to 100"),
        ({"text": "a", "depth": 10**30}, "must be an integer from 1 to 1,000"),
        ({"text": "a", "depth": 10**400}, "must be an integer from 1 to 1,000"),
        ({"text": "a", "depht": 5}, "'depht': there is no such key. Did you mean 'depth'"),
        (
            {"text": "a", "where": {"splt": "test"}},
            "where='splt': the index has no such column; it has id",
        ),
        ({"text": "a", "where": {"split": 5}}, r"where 'split': \[5\] are no values of a column of"),
        ({"text": "a", "where": {"split": []}}, "where 'split': allows no value at all"),
        ({"text": "a", "where": {"split": ["a"] * 101}}, "where 'split': 101 values, and 100 are the most"),
        ({"text": "a", "where": {"split": {"a": 1}}}, "where: must be an object of columns"),
        ({"text": "a", "where": "split"}, "where: must be an object of columns"),
        ([1], "the body must be a JSON object"),
        ({"image": "iVBORw0KGgo="}, r"image: send it as a file, in a form \(multipart/form-data\)"),
    ],
)
def test_what_cannot_be_asked_is_said(client, body, said):
    answer = client.post("/search", json=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert re.search(said, answer.json()["error"]), answer.json()


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b'{"text": ', "application/json", 400, "the body: is no JSON"),
        (b'{"text": "a", "k": NaN}', "application/json", 400, "NaN is no JSON"),
        (b"[" * 50_000, "application/json", 400, "the body: is no JSON"),
        (b'{"text": "\\ud800"}', "application/json", 400, "holds what is no UTF-8"),
        (b'{"text": "\xff"}', "application/json", 400, "holds what is no UTF-8"),
        (b'{"text": "a", "k": ' + b"9" * 5_000 + b"}", "application/json", 400, "is no JSON"),
        (b'{"text": "' + b"a" * 70_000 + b'"}', "application/json", 413, "larger than 64 KB"),
        (b"text=a", "application/x-www-form-urlencoded", 415, "send application/json, or multipart/form-data"),
        (b"a", "multipart/form-data", 400, "boundary"),
        (b"a", "multipart/form-data; boundary=x", 400, ""),
    ],
)
def test_a_broken_body_is_said(client, body, kind, status, said):
    answer = client.post("/search", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"", "image: an empty file. Send a JPEG, PNG or WebP file."),
        (b"hello", "image: not an image, or of a kind that Pillow can't read. Send a JPEG, PNG or WebP file."),
        (bomb(60_000, 60_000), "Scale the image down."),
        (bomb(10_000, 10_000), "are decoded. Scale the image down."),
        (bomb(9_000, 10), "a side may be 400 times as long as the other. Crop the image."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript, not an image. Convert it"),
    ],
    ids=["empty", "text", "bomb", "large", "oblong", "postscript"],
)
def test_an_image_that_cannot_be_read_is_said(client, image, said):
    answer = send(client, image)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("image: ")
    assert said in answer.json()["error"]


def test_an_image_cut_short_is_said(client, place):
    data = png(place)
    said = send(client, data[: len(data) // 2]).json()["error"]
    assert said.startswith("image: the image is cut short or damaged")
    assert "/tmp" not in said


def test_a_form_without_an_image_or_with_more_is_said(client, place):
    file = ("a.png", png(place), "image/png")
    for files, data, said in (
        ({"image": file}, {"text": "a"}, "both text and image"),
        ({"picture": file}, {}, "the file must be called image"),
        ({"image": file, "other": file}, {}, "Too many files"),
        ({"image": file}, {"where": "{"}, "where: is no JSON"),
        ({"image": file}, {"k": "0"}, "k='0': must be an integer of 1 or more"),
        ({"image": file}, {"k": "9" * 400}, "must be an integer from 1 to 100"),
    ):
        answer = client.post("/search", files=files, data=data)
        assert answer.status_code == 400
        assert said in answer.json()["error"]


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-7", "raw_unicode_escape", "nonsense"])
def test_a_form_in_an_encoding_of_its_own_is_said(client, place, charset):
    said = b'"+2AA-"' if charset == "utf-7" else b'"\\ud800"'  # half a surrogate pair
    part = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    file = part.replace(b'"%b"', b'"image"; filename="a"', 1) % png(place)
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    answer = client.post("/search", content=file + part % (b"where", said) + b"--x--\r\n", headers=kind)
    assert answer.status_code == 400
    assert "where: " in answer.json()["error"] or "Send UTF-8." in answer.json()["error"]


def test_a_large_body_is_refused_whether_it_says_so_or_not(corpora):
    def parts():
        yield b"--x\r\nContent-Disposition: form-data; name=image; filename=a.png\r\n\r\n"
        for _ in range(30):
            yield b"0" * 10_000

    with connected(corpora, Limits(rate=0, body=100_000)) as client:
        told = send(client, b"0" * 200_000)
        kind = {"content-type": "multipart/form-data; boundary=x"}
        streamed = client.post("/search", content=parts(), headers=kind)
    for answer in (told, streamed):
        assert answer.status_code == 413
        assert "Scale the image down" in answer.json()["error"]


def test_a_direction_that_is_not_served_is_said(corpora, place):
    with connected({"t2i": corpora["t2i"]}) as client:
        assert "Start the server with a run of the direction i2t, too" in send(client, png(place)).json()["error"]
        assert [run["asks"] for run in client.get("/runs").json()["runs"]] == ["text"]
    with connected({"i2t": corpora["i2t"]}) as client:
        assert "direction t2i" in ask(client, text="a").json()["error"]
        assert client.get("/image/0").status_code == 404


def test_other_names_and_other_sites_are_refused(corpora):
    with connected(corpora, hosts=["box.example", "[fd00::1]:8000"]) as client:
        assert client.get("/runs", headers={"host": "evil.example"}).status_code == 403
        assert "--allow-host" in client.get("/runs", headers={"host": "evil.example"}).json()["error"]
        for host in ("localhost:8000", "127.0.0.1:9", "[::1]:8000", "box.example", "BOX.example:80", "[fd00::1]:9"):
            assert client.get("/health", headers={"host": host}).status_code == 200
        for host in ("", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil.example:8000"):
            assert client.get("/health", headers={"host": host}).status_code == 403
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "http://[evil", "127.0.0.1:8000"):
            answer = client.post("/search", json={"text": "a"}, headers={"origin": origin})
            assert answer.status_code == 403
        own = {"origin": "http://127.0.0.1:8000"}
        answer = client.post("/search", json={"text": "a"}, headers=own)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/runs", "/nowhere", "/image/0", "/page/app.js"])
def test_every_answer_has_the_headers_that_keep_a_browser_safe(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_client_that_asks_too_often_waits_and_others_do_not(corpora):
    limits = Limits(rate=0.5)  # two at once
    with connected(corpora, limits) as client:
        codes = [ask(client, text="a").status_code for _ in range(3)]
        answer = ask(client, text="a")
        assert client.get("/health").status_code == 200
    assert codes[0] == 200
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 2
    seconds = answer.headers["retry-after"]
    assert answer.json()["error"] == f"more than 0.5 searches a second. Wait {seconds} s."


def test_a_bucket_fills_with_time_and_is_ones_own():
    now = [0.0]
    buckets = TokenBuckets(2.0, lambda: now[0])
    assert [buckets.wait("a") for _ in range(4)] == [0.0] * 4
    assert buckets.wait("a") == pytest.approx(0.5)
    assert buckets.wait("b") == 0.0
    now[0] = 0.5
    assert buckets.wait("a") == 0.0
    assert buckets.wait("a") > 0
    for number in range(5_000):
        now[0] += 1
        buckets.wait(str(number))
    for number in range(5_000):
        buckets.wait(f"{number} at once")
    assert len(buckets._known) <= 4_096


def test_more_searches_than_may_wait_are_sent_away_and_a_slow_one_is_given_up(corpora, monkeypatch):
    searcher = corpora["t2i"].searcher
    begun, go_on, encode = threading.Event(), threading.Event(), searcher.encode
    found = []

    def slow(given, images):
        begun.set()
        go_on.wait(20)
        return encode(given, images)

    monkeypatch.setattr(searcher, "encode", slow)
    with connected(corpora, Limits(rate=0, waiting=1, seconds=20)) as client:
        first = threading.Thread(target=lambda: found.append(ask(client, text="a").status_code))
        first.start()
        assert begun.wait(10)
        second = ask(client, text="b")
        assert "rank_xmodal_searches 1.0" in client.get("/metrics").text
        go_on.set()
        first.join()
    assert found == [200]
    assert second.status_code == 503
    assert second.headers["retry-after"] == "1"
    go_on.clear()
    with connected(corpora, Limits(rate=0, seconds=0.2)) as client:
        answer = ask(client, text="a")
        go_on.set()
    assert answer.status_code == 503
    assert "the server is busy" in answer.json()["error"]


def test_pictures_are_of_rows_alone_and_are_kept_by_the_browser(client, place, corpora):
    answer = client.get("/image/3")
    assert answer.headers["content-type"] == "image/jpeg"
    again = client.get("/image/3", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert not again.content
    for row in ("48", "-1", "999999999999", "9" * 40, "x", "1.0", "0x1", "%00", "..%2f..%2fetc%2fpasswd", "१"):
        assert client.get(f"/image/{row}").status_code == 404, row
    for path in ("/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/index.html/.."):
        answer = client.get(path)
        assert b"import" not in answer.content, path


def test_a_picture_that_is_gone_or_no_image_is_missed_and_nothing_else(place, index, corpora):
    from experiments.serve.corpora import open_corpora

    (place / "photos/47.png").rename(place / "photos/gone.png")
    (place / "photos/47.png").write_text("no image")
    try:
        with connected(open_corpora([index], None, device="cpu", say=print)) as client:
            assert client.get("/image/46").status_code == 200
            assert client.get("/image/47").status_code == 404
            (place / "photos/47.png").unlink()
            assert client.get("/image/47").status_code == 404
    finally:
        (place / "photos/gone.png").rename(place / "photos/47.png")


def test_health_metrics_and_the_description(client, corpora):
    ask(client, text="a blue thing")
    client.get("/nowhere/at/all")
    assert client.get("/health").json()["status"] == "ok"
    text = client.get("/metrics").text
    assert 'rank_xmodal_requests_total{route="/search",status="200"} 1.0' in text
    assert 'rank_xmodal_requests_total{route="other",status="404"} 1.0' in text
    assert 'rank_xmodal_request_seconds_bucket{le="10.0",route="/search"} 1.0' in text
    assert "rank_xmodal_batch_size_count 1.0" in text
    assert "rank_xmodal_candidates_t2i 48.0" in text
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/search", "/runs", "/health", "/metrics", "/image/{row}"}
    kinds = described["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(kinds) == {"application/json", "multipart/form-data"}
    assert client.get("/docs").status_code == 404
    assert client.get("/search").status_code == 405
    assert "error" in client.get("/search").json()
    run = client.get("/runs").json()["runs"][0]
    assert run["choices"] == {"split": ["test", "train", "val"]}
    assert (run["run"], run["candidates"]) == ("t2i", 48)


def test_an_error_of_ours_is_told_without_its_innards(corpora, monkeypatch):
    def broken(given, images):
        raise RuntimeError("secret")

    monkeypatch.setattr(corpora["t2i"].searcher, "encode", broken)
    with connected(corpora) as client:
        answer = ask(client, text="a")
        assert client.get("/health").status_code == 200
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "its log tells" in answer.json()["error"]


def test_a_corpus_that_cannot_be_read_is_no_fault_of_the_clients(corpora, monkeypatch):
    def gone(*given, **options):
        raise UserError("/home/me/index: the table can't be read.")

    monkeypatch.setattr(corpora["t2i"].searcher, "search", gone)
    monkeypatch.setattr(corpora["t2i"].searcher, "choices", gone)
    with connected(corpora) as client:
        for answer in (ask(client, text="a"), client.get("/runs")):
            assert answer.status_code == 500
            assert "/home/me" not in answer.text


def test_paths_that_do_not_exist_are_one_series():
    metrics = Metrics()
    for number in range(50):
        metrics.finished(f"/{number}", 404, 0.0)
    assert metrics.text().count(b"rank_xmodal_requests_total{") == 1
