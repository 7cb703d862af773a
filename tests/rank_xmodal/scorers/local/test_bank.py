"""Hubness in a head's own similarity, against a loop over pairs."""

import dataclasses

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.lists.list_tokens import LocalBatch, tables_of
from rank_xmodal.scorers.local import bank
from rank_xmodal.scorers.local.bank import HeadBank
from rank_xmodal.scorers.local.heads import HEADS
from rank_xmodal.scorers.local.network import mean_of
from rank_xmodal.scorers.local.pairing import Grid

CPU = torch.device("cpu")


def untrained(data, name, seed=0):
    """Return a head of random weights for a set's tokens, small, its tokens not whitened."""
    values = {"similarity_width": 8} if name == "sgraf" else {}
    settings = HEADS[name].Settings.checked({"width": 8, **values}, name)
    images, texts = tables_of(data)
    torch.manual_seed(seed)
    return HEADS[name].head(images.width, texts.width, settings).eval()


def matched(network, data, images, texts):
    """Return the similarities of all pairs of images and captions, by row."""
    cells, words = tables_of(data)
    seen, read = network.encode_image(cells.take(images)), network.encode_text(words.take(texts))
    return network.match(seen, read, Grid()).T


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_hubness_is_the_mean_of_the_ten_largest_similarities_to_the_bank(with_tokens, monkeypatch, name, direction):
    """With every bank query matched with every candidate nothing is left to be nearest by means."""
    monkeypatch.setattr(bank, "_MATCHED", 10_000)
    monkeypatch.setattr(bank, "LARGEST", 60)
    network = untrained(with_tokens, name)
    made = HeadBank.of(network, with_tokens, direction, 3, CPU)
    rows = torch.from_numpy(with_tokens.candidate_rows(direction, "test")[:7].astype(np.int64))
    asked = torch.from_numpy(bank.choose_bank(with_tokens, direction, largest=60, seed=3).astype(np.int64))
    assert len(made.queries) == 60
    images, texts = tables_of(with_tokens)
    if direction == "t2i":
        candidates, similarity = network.encode_image(images.take(rows)), matched(network, with_tokens, rows, asked)
    else:
        candidates, similarity = network.encode_text(texts.take(rows)), matched(network, with_tokens, asked, rows).T
    expected = [np.mean(sorted(row.tolist())[-10:]) for row in similarity]
    found = made.hubness(network, candidates, direction)
    assert found.numpy() == pytest.approx(np.array(expected), rel=2e-3, abs=2e-3)  # the bank is kept in float16


@torch.no_grad()
def test_those_nearest_by_their_means_are_matched(with_tokens, monkeypatch):
    monkeypatch.setattr(bank, "_MATCHED", 3)
    network = untrained(with_tokens, "late_interaction")
    made = HeadBank.of(network, with_tokens, "t2i", 0, CPU)
    rows = torch.from_numpy(with_tokens.candidate_rows("t2i", "test")[:5].astype(np.int64))
    candidates = network.encode_image(tables_of(with_tokens)[0].take(rows))
    similarity = network.match(candidates, made.queries, Grid()).T
    unit = torch.nn.functional.normalize
    near = (unit(mean_of(candidates)) @ unit(mean_of(made.queries)).T).topk(3).indices
    torch.testing.assert_close(made.hubness(network, candidates, "t2i"), similarity.gather(1, near).mean(1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["late_interaction", "pool", "mgan"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_what_asks_for_a_training_item_itself_makes_it_no_hub(with_tokens, name, direction):
    network = untrained(with_tokens, name)
    made = HeadBank.of(network, with_tokens, direction, 0, CPU)
    encode, table = (network.encode_image, 0) if direction == "t2i" else (network.encode_text, 1)
    rows = torch.from_numpy(with_tokens.candidate_rows(direction, "train")[:6].astype(np.int64))
    candidates = encode(tables_of(with_tokens)[table].take(rows))
    relevance = with_tokens.relevance_matrix(direction)
    bank_rows = bank.choose_bank(with_tokens, direction, largest=bank.LARGEST, seed=0)
    for place, row in enumerate(rows.tolist()):
        asks = torch.from_numpy(relevance[bank_rows][:, row].toarray()[:, 0] > 0)
        assert asks.any()
        others = dataclasses.replace(made, queries=made.queries.take((~asks).nonzero()[:, 0]), owned=made.owned[:0],
                                     owner=made.owner[:0])  # fmt: skip
        one = candidates.take(torch.tensor([place]))
        torch.testing.assert_close(made.hubness(network, one, direction), others.hubness(network, one, direction))


@torch.no_grad()
def test_a_bank_that_was_kept_gives_the_same_numbers(with_tokens):
    network = untrained(with_tokens, "late_interaction")
    made = HeadBank.of(network, with_tokens, "t2i", 0, CPU)
    state = made.state()
    assert state["values"].dtype == torch.float16
    candidates = network.encode_image(tables_of(with_tokens)[0].take(torch.arange(9)))
    again = HeadBank.read(state).hubness(network, candidates, "t2i")
    assert torch.equal(again, made.hubness(network, candidates, "t2i"))


@torch.no_grad()
def test_a_bank_of_one_that_asks_for_the_candidate_itself_knows_no_hubs(with_tokens, monkeypatch):
    monkeypatch.setattr(bank, "LARGEST", 1)
    network = untrained(with_tokens, "late_interaction")
    made = HeadBank.of(network, with_tokens, "t2i", 0, CPU)
    row = bank.choose_bank(with_tokens, "t2i", largest=1, seed=0)
    own = torch.from_numpy(with_tokens.relevance_matrix("t2i")[row].indices.astype(np.int64))
    candidates = network.encode_image(tables_of(with_tokens)[0].take(own))
    assert made.hubness(network, candidates, "t2i").tolist() == [0.0]


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_head_says_similarity_hubness_and_csls(with_tokens, direction):
    scorer = scorers.get("late_interaction", width=8, steps=5, batch_size=16, device="cpu")
    scorer.trained_on(with_tokens, direction, 0, CPU)
    assert scorer.bank is not None
    images, texts = tables_of(with_tokens)
    asking, ranked = (texts, images) if direction == "t2i" else (images, texts)
    place = torch.tensor([[0, 3, 1], [2, 2, 0]])
    batch = LocalBatch(asking.take(torch.arange(2)), (ranked.take(torch.arange(300, 304)),), place, False)
    found = scorer.features(batch)
    encoded = scorer._encode(batch.candidates[0], direction == "i2t")
    hub = scorer.bank.hubness(scorer.network, encoded, direction)
    torch.testing.assert_close(found[..., 1], hub[place])
    torch.testing.assert_close(found[..., 2], found[..., 0] - found[..., 1] / 2)


@torch.no_grad()
def test_candidates_are_matched_some_at_a_time(with_tokens, monkeypatch):
    """Otherwise memory would grow with the candidates of a search."""
    network = untrained(with_tokens, "fusion")
    made = HeadBank.of(network, with_tokens, "t2i", 0, CPU)
    candidates = network.encode_image(tables_of(with_tokens)[0].take(torch.arange(70)))
    expected, sizes = made.hubness(network, candidates, "t2i"), []
    real = network.match
    monkeypatch.setattr(bank, "_BLOCK", 16)
    monkeypatch.setattr(network, "match", lambda *of: (sizes.append(len(of[0])), real(*of))[1])
    torch.testing.assert_close(made.hubness(network, candidates, "t2i"), expected)
    assert sizes == [16, 16, 16, 16, 6]
