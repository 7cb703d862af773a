"""A rerank endpoint on this machine: what it is sent, and what becomes of the lists where it fails."""

import base64
import json
import socket
import warnings
from dataclasses import replace
from time import monotonic

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.folder import save

CAPTIONS = [f"caption {row}" for row in range(8)]
KEY = "sk-Very-Secret-0123456789"


@pytest.fixture
def images(image_files):
    return image_files


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Return the seconds that would have been waited before retries."""
    waited: list[float] = []
    monkeypatch.setattr("rank_xmodal.scorers.endpoint.sleep", waited.append)
    monkeypatch.delenv("RERANK_API_KEY", raising=False)
    return waited


def batch_of(images, direction="t2i", lists=3):
    """Return a batch of lists of six, of which one is padded."""
    queries, candidates = (CAPTIONS, images) if direction == "t2i" else (images, CAPTIONS)
    draw = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(8, generator=draw)[:6] for _ in range(lists)])
    cosine = torch.rand(rows.shape, generator=draw)
    rows[0, 0], cosine[0, 0] = -1, 9.0
    return ListBatch(
        query=torch.zeros(lists, 4), candidates=torch.zeros(lists, 6, 0), cosine=cosine,
        neighbour_cosine=torch.zeros(lists, 6, 0), mask=rows >= 0, query_row=torch.arange(lists) % 8, rows=rows,
        content=Content(direction, queries, candidates),
    )  # fmt: skip


def scored(server, batch, **values):
    """Return the scores, and what was warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = scorers.get("remote", url=server.url, **values).score(batch)
    return found, [str(one.message) for one in told]


def as_sent(item):
    if not item.startswith("/"):
        return item
    kind = item.rpartition(".")[2]
    with open(item, "rb") as handle:
        url = f"data:image/{kind};base64,{base64.b64encode(handle.read()).decode()}"
    return {"content": [{"type": "image_url", "image_url": {"url": url}}]}


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_first_few_have_the_endpoints_scores_and_the_rest_its_order(rerank_server, images, direction):
    batch = batch_of(images, direction)
    found, told = scored(rerank_server, batch, model="some/reranker", top=3)
    assert told == []
    for row in range(3):
        places = [p for p in batch.cosine[row].argsort(descending=True).tolist() if batch.mask[row, p]]
        query = as_sent(batch.content.queries[row])
        documents = [as_sent(batch.content.candidates[int(batch.rows[row, place])]) for place in places]
        asked = rerank_server.asked[row]
        assert asked == {"model": "some/reranker", "query": query, "documents": documents[:3]}
        for place, document in zip(places[:3], documents, strict=False):
            assert float(found[row, place]) == pytest.approx(rerank_server.of(query, document), abs=1e-6)
        scores = found[row, places].tolist()
        assert max(scores[3:]) < min(scores[:3])
        assert scores[3:] == sorted(scores[3:], reverse=True)


def test_documents_are_sent_a_batch_at_a_time(rerank_server, images):
    batch = batch_of(images)
    found, _ = scored(rerank_server, batch, top=6, batch_size=4)
    assert [len(asked["documents"]) for asked in rerank_server.asked] == [4, 1, 4, 2, 4, 2]
    assert "model" not in rerank_server.asked[0]
    rerank_server.asked.clear()
    whole, _ = scored(rerank_server, batch, top=6)
    torch.testing.assert_close(found[batch.mask], whole[batch.mask])
    assert len(rerank_server.asked) == 3


def test_after_a_failure_it_is_asked_again(rerank_server, images, waits):
    statuses = iter([500, 429])

    def ill_at_first(body):
        status = next(statuses, 200)
        return (status, b"") if status != 200 else rerank_server.relevance(body)

    rerank_server.answer = ill_at_first
    batch = batch_of(images)
    found, told = scored(rerank_server, batch)
    assert told == []
    assert waits == [0.5, 1.0]
    rerank_server.answer = rerank_server.relevance
    torch.testing.assert_close(found, scored(rerank_server, batch)[0])


NONSENSE = {
    "not JSON": (b"<html>", "an answer that is not JSON"),
    "deep": (b"[" * 100_000, "an answer that is not JSON"),
    "a list": (b"[]", "with no list of results for 5 documents"),
    "too few": ({"results": [{"index": 0, "relevance_score": 1.0}]}, "with 1 results for 5 documents"),
    "NaN": (b'{"results": [' + b",".join(b'{"index": %d, "relevance_score": NaN}' % k for k in range(5)) + b"]}",
            "a relevance_score that is no finite number"),
    "huge": ({"results": [{"index": k, "relevance_score": 10**400} for k in range(5)]}, "no finite number"),
    "text": ({"results": [{"index": k, "relevance_score": "1"} for k in range(5)]}, "no finite number"),
    "twice": ({"results": [{"index": 0, "relevance_score": 1.0}] * 5}, "indices are not those of the documents"),
    "outside": ({"results": [{"index": k + 1, "relevance_score": 1.0} for k in range(5)]}, "indices are not those"),
    "no objects": ({"results": [1, 2, 3, 4, 5]}, "indices are not those"),
    "endless": (b" " * 3_000_000, "an answer of more than"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_answer_that_is_none_leaves_the_first_stages_order(rerank_server, images, waits, kind):
    answer, said = NONSENSE[kind]
    rerank_server.answer = lambda body: (200, answer)
    batch = batch_of(images, "i2t")
    found, told = scored(rerank_server, batch)
    assert torch.equal(found, batch.cosine)
    assert len(told) == 1
    assert f"3 of 3 lists keep the first stage's order: {rerank_server.url} gave" in told[0]
    assert said in told[0]
    assert len(rerank_server.asked) == 9, "two further attempts a list"
    assert waits == 3 * [0.5, 1.0]


def test_a_list_that_fails_alone_is_counted_alone(rerank_server, images):
    rerank_server.answer = lambda body: (
        (503, b"") if body["query"] == CAPTIONS[1] else rerank_server.relevance(body)
    )  # fmt: skip
    batch = batch_of(images)
    found, told = scored(rerank_server, batch, retries=0)
    assert len(told) == 1
    assert "1 of 3 lists keep the first stage's order" in told[0]
    assert "gave status 503." in told[0]
    assert torch.equal(found[1], batch.cosine[1])
    assert not torch.equal(found[0], batch.cosine[0])


def test_a_refusal_is_not_asked_again_and_a_redirection_not_followed(rerank_server, images, monkeypatch):
    monkeypatch.setenv("RERANK_API_KEY", KEY)
    for status in (401, 422, 302, 307):
        rerank_server.asked.clear()
        rerank_server.answer = lambda body, status=status: (status, b"")
        _, told = scored(rerank_server, batch_of(images, lists=1))
        assert f"gave status {status}." in told[0]
        assert len(rerank_server.asked) == 1


def test_one_that_is_slow_is_not_waited_for(rerank_server, images):
    rerank_server.answer = rerank_server.slow
    batch = batch_of(images, lists=2)
    found, told = scored(rerank_server, batch, timeout=0.05, retries=1)
    assert "2 of 2 lists" in told[0]
    assert "no answer within 0.05 s" in told[0]
    assert torch.equal(found, batch.cosine)


def test_one_that_trickles_in_is_not_waited_for_either(rerank_server, images):
    rerank_server.pause = 0.02
    batch = batch_of(images, lists=1)
    start = monotonic()
    _, told = scored(rerank_server, batch, timeout=0.1, retries=0)
    assert "no answer within 0.1 s" in told[0]
    assert monotonic() - start < 2


def test_one_that_is_down_is_given_up_after_a_few_lists(rerank_server, images, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        rerank_server.url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/rerank"
        batch = batch_of(images, lists=20)
        found, told = scored(rerank_server, batch)
    assert torch.equal(found, batch.cosine)
    assert len(told) == 1
    assert "20 of 20 lists" in told[0]
    assert "gave no answer, ConnectionRefusedError; after 5 in a row the rest was not asked for." in told[0]


def test_a_whole_evaluation_is_told_of_once(rerank_server, images, corpus):
    data = corpus.data
    data = replace(data, images=data.images.assign(path=[images[row % 8] for row in range(len(data.images))]))
    gallery = rank_gallery(data, "t2i", "test", depth=6)
    assert len(gallery.lists) > 64
    rerank_server.answer = lambda body: (400, b"")
    scorer = scorers.get("remote", url=rerank_server.url)
    tensors = Stack(scorer, np.asarray(data.text_emb[:5])).tensors(data, gallery.lists, torch.device("cpu"))
    with pytest.warns(UserWarning, match=f"{len(tensors)} of {len(tensors)} lists") as told:
        found = score_lists(scorer, tensors)
    assert len(told) == 1
    assert torch.equal(found, tensors.cosine)


def test_the_key_is_sent_and_never_written(rerank_server, images, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    scorer = scorers.get("remote", url=rerank_server.url, key_from="MY_KEY")
    scorer.score(batch_of(images))
    assert all(sent["Authorization"] == f"Bearer {KEY}" for sent in rerank_server.headers)
    save(tmp_path, Stack(scorer, np.eye(3, 4, dtype=np.float16)), {"direction": "t2i"}, "a card")
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"MY_KEY" in written
    assert KEY.encode() not in written
    assert KEY not in repr(scorer._endpoint()) + repr(vars(scorer))
    rerank_server.answer = lambda body: (401, KEY.encode())
    _, told = scored(rerank_server, batch_of(images), key_from="MY_KEY")
    assert KEY not in told[0]
    monkeypatch.setenv("MY_KEY", f"{KEY}\r\nX-Other: 1")
    with pytest.raises(UserError, match="the key in MY_KEY holds what no header can") as error:
        scorer.score(batch_of(images))
    assert KEY not in str(error.value)
    monkeypatch.delenv("MY_KEY")
    rerank_server.answer = rerank_server.relevance
    rerank_server.headers.clear()
    scorer.score(batch_of(images))
    assert all("Authorization" not in sent for sent in rerank_server.headers)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"url": f"http://me:{KEY}@127.0.0.1/"}, "url: holds a name or password"),
        ({"url": f"file:///{KEY}"}, "url: must be an address"),
        ({"url": f"{KEY}"}, "url: must be an address"),
        ({"url": f"http://127.0.0.1:{KEY}/"}, "url: must be an address"),
        ({"url": f"http://[{KEY}/"}, "url: must be an address"),
        ({"url": f"http://127.0.0.1/\x1b[2J{KEY}"}, "url: must be an address"),
        ({"key_from": KEY}, "key_from: must be the name of an environment variable in capitals"),
    ],
)
def test_settings_that_hold_a_secret_are_refused_and_not_shown(values, said):
    with pytest.raises(UserError, match=said) as error:
        scorers.parse({"scorer": "remote", **values})
    assert KEY not in str(error.value)


def test_without_an_address_the_message_says_which_setting(images):
    with pytest.raises(UserError, match="scorer=remote: url is empty"):
        scorers.get("remote").score(batch_of(images))


def test_no_file_but_an_image_leaves_this_machine(rerank_server, tmp_path):
    (tmp_path / "id_rsa").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    for path, said in (
        (str(tmp_path / "id_rsa"), "id_rsa: is no image of these kinds"),
        (str(tmp_path / "none.png"), "no such image"),
        (str(tmp_path), "no such image"),
        ("", "an image without a path"),
    ):
        with pytest.raises(UserError, match=said):
            scorers.get("remote", url=rerank_server.url).score(batch_of([path] * 8))
    assert rerank_server.asked == []


def test_an_endpoint_of_another_model_is_another_run():
    one, two = (scorers.parse({"scorer": "remote", "url": "http://127.0.0.1/", "model": name}) for name in "ab")
    assert json.loads(one.model_dump_json())["model"] == "a"
    assert one != two
