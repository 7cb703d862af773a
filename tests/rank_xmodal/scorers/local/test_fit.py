"""Training a head on pairs, and what it is then allowed to say on lists."""

import json
import shutil

import numpy as np
import pytest
import torch

from rank_xmodal import losses, scorers
from rank_xmodal.data import kept_fits
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import Tokens, write_tokens
from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.list_tokens import ListTokens, tables_of
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import Neighbours
from rank_xmodal.scorers.local import base
from rank_xmodal.scorers.local.fit import HINGE, in_batch, train_head, whitened
from rank_xmodal.scorers.local.heads import HEADS
from rank_xmodal.scorers.local.network import Side
from rank_xmodal.scorers.local.pairing import Grid, OfLists
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
QUICK = {"width": 16, "steps": 40, "lr": 1e-2, "batch_size": 32, "dropout": 0.1, "without": 0.1, "device": "cpu"}


def quick(name, **values):
    """Return a head that is trained in a moment."""
    small = {"similarity_width": 16} if name == "sgraf" else {}
    return scorers.get(name, **{**QUICK, **small, **values})


def head_of(data, name="late_interaction", seed=0, **values):
    """Return an untrained head for a set's tokens."""
    scorer = quick(name, **values)
    images, texts = tables_of(data)
    torch.manual_seed(seed)
    return type(scorer).head(images.width, texts.width, scorer.settings)


def tensors(data, direction="t2i", split="test", depth=20):
    gallery = rank_gallery(data, direction, split, depth=depth)
    near = Neighbours.none(len(data.candidates(direction)))
    return ListTensors.gather(data, gallery.lists, near.of, CPU, in_bank=False, tokens=True)


def test_both_ways_are_lists_of_the_batch():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 5, generator=draw)
    match = torch.eye(5, dtype=torch.bool)
    match[0, 3] = True
    labels = match.int()
    expected = losses.get("listnet")(scores, labels) + losses.get("listnet")(scores.T, labels.T)
    assert float(in_batch("listnet", scores, match)) == pytest.approx(float(expected))
    hinge = 0.0
    for i in range(5):
        for values, same in ((scores[i], match[i]), (scores[:, i], match[:, i])):
            hinge += max(0.0, 0.2 + float(values[~same].max()) - float(scores[i, i])) / 5
    assert float(in_batch(HINGE, scores, match)) == pytest.approx(hinge, rel=1e-5)


def test_tokens_are_whitened_as_those_of_a_sample():
    """Uncorrelated and of one size, but for the small directions, which are held up; cut to the largest."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=draw)
    tokens = torch.randn(5_000, 6, generator=draw) @ mix + 3.0
    side = Side(6, scorers.get("pool", **QUICK).settings)
    side.whiten_as(tokens)
    found = side.whitened(tokens)
    covariance = found.T @ found / len(found)
    variance = torch.linalg.eigvalsh(torch.cov(tokens.T, correction=0)).flip(0)
    expected = variance / (variance + 0.3 * variance.mean()) / 6
    torch.testing.assert_close(covariance, torch.diag(expected), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.mean(0), torch.zeros(6), atol=1e-5, rtol=0)


def test_wide_tokens_are_cut_to_their_principal_directions(monkeypatch):
    monkeypatch.setattr("rank_xmodal.scorers.local.network._DIRECTIONS", 2)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(1_000, 5, generator=draw) * torch.tensor([0.1, 3.0, 0.1, 2.0, 0.1])
    side = Side(5, scorers.get("pool", **QUICK).settings)
    side.whiten_as(tokens)
    assert side.whitened(tokens).shape == (1_000, 2)
    assert side.white[[0, 2, 4]].abs().max() < 0.1 * side.white[[1, 3]].abs().max()


def test_the_whitened_table_holds_the_items_asked_for(with_tokens):
    _, texts = tables_of(with_tokens)
    side = Side(texts.width, scorers.get("pool", **QUICK).settings)
    side.whiten_as(texts.values[:500].float())
    rows = torch.tensor([3, 700, 5])
    found = whitened(side, texts, rows).take(torch.arange(3))
    whole = texts.take(rows)
    assert torch.equal(found.mask, whole.mask)
    torch.testing.assert_close(found.values[found.mask], side.whitened(whole.values[whole.mask]), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_the_same_seed_gives_the_same_head(with_tokens, name):
    before = torch.get_rng_state()
    first, second, other = (head_of(with_tokens, name, seed) for seed in (0, 0, 1))
    torch.set_rng_state(before)
    for network, seed in ((first, 0), (second, 0), (other, 1)):
        train_head(network, with_tokens, seed)
    assert torch.equal(before, torch.get_rng_state())
    one, two, three = (network.state_dict() for network in (first, second, other))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], three[key]) for key in one)


def test_a_training_that_diverges_says_so(with_tokens):
    network = head_of(with_tokens, lr=100.0)
    with torch.no_grad():
        network.sharpness.fill_(200.0)  # times which it is infinite
    with pytest.raises(UserError, match=r"Training stopped in step 1: the loss is .* Lower lr \(now 100\)"):
        train_head(network, with_tokens, 0)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_lists_and_the_grid_see_the_same_pairs(with_tokens, name, direction):
    """What a head says of a pair depends on no other, nor on how the pair is looked up."""
    network = head_of(with_tokens, name)
    train_head(network, with_tokens, 0)
    images, texts = tables_of(with_tokens)
    rows = torch.arange(300, 306)
    seen, read = network.encode_image(images.take(rows)), network.encode_text(texts.take(2 * rows))
    with torch.no_grad():
        grid = network.match(seen, read, Grid())
        place = torch.tensor([[0, 5, 2], [1, 1, 3], [4, 0, 2], [3, 2, 1], [5, 4, 0], [2, 3, 5]])
        found = network.match(seen, read, OfLists(direction, place))
    whole = grid if direction == "t2i" else grid.T
    torch.testing.assert_close(found, whole.gather(1, place), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_projected_once_it_scores_the_same(with_tokens, name, direction):
    scorer = quick(name)
    scorer.trained_on(with_tokens, direction, 0, CPU)
    lists = tensors(with_tokens, direction)
    once = score_lists(scorer, lists)
    with torch.no_grad():
        batch, _ = lists.batch(torch.arange(9))
        assert batch.tokens is not None
        assert not batch.tokens.projected
        torch.testing.assert_close(scorer.score(batch), once[:9], atol=2e-5, rtol=1e-4)


def test_padding_changes_no_other_score(with_tokens):
    for name in HEADS:
        scorer = quick(name)
        scorer.trained_on(with_tokens, "t2i", 0, CPU)
        lists = tensors(with_tokens)
        tokens = ListTokens.of(with_tokens, "t2i", CPU)
        short = lists.rows[:4, :6]
        padded = torch.cat([short, torch.full((4, 3), -1)], 1)
        with torch.no_grad():
            one, two = (scorer.features(tokens.batch(lists.query_row[:4], rows)) for rows in (short, padded))
        torch.testing.assert_close(two[:, :6], one)


def stack_of(data, direction="t2i", **values):
    scorer = scorers.get("late_interaction", **{**QUICK, **values})
    lists = {}

    def mined(held):
        gallery = rank_gallery(held, direction, "train", depth=20)
        return gallery.lists

    parts = [TrainingPart(mined(held), rest) for rest, held in inner_folds(data, 2)]
    return fit_stack(scorer, data, direction, parts=parts, device=CPU, **lists)


def test_it_adds_to_the_first_stage_and_without_residual_stands_alone(with_tokens):
    both, alone = stack_of(with_tokens), stack_of(with_tokens, residual=False)
    gallery = rank_gallery(with_tokens, "t2i", "test", depth=20)
    batch = alone.tensors(with_tokens, gallery.lists, CPU).batch(torch.arange(5))[0]
    similarity = alone.scorer.score(batch)
    weights = both.scorer.weights
    assert float(weights[2]) > 0
    batch = both.tensors(with_tokens, gallery.lists, CPU).batch(torch.arange(5))[0]
    own = both.scorer.features(batch.tokens)
    torch.testing.assert_close(own[..., 0], similarity)
    near = batch.neighbour_cosine.mean(-1)
    parts = [batch.cosine, near, similarity, own[..., 1]]
    expected = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(both.scorer.score(batch), expected)
    assert alone.scorer.needs.base is False


def test_a_head_that_says_nothing_ranks_as_the_first_stage(with_tokens):
    """The weights come from lists out of fold: an untrained head's gets none."""
    stack = stack_of(with_tokens, steps=0, width=1)
    assert float(stack.scorer.weights[2:].abs().max()) < 0.2 * float(stack.scorer.weights[0])


def test_heads_are_kept_beside_the_set(with_tokens, tmp_path, monkeypatch):
    data = EmbeddingSet.open(with_tokens.root)
    made = []
    real = base.train_head
    monkeypatch.setattr(base, "train_head", lambda *of: (made.append(1), real(*of)))
    values = json.dumps({**QUICK, "steps": 2, "width": 5})
    kind = HEADS["late_interaction"]
    first = base._trained.__wrapped__(data, kind, values, 0, "cpu")
    again = base._trained.__wrapped__(data, kind, values, 0, "cpu")
    assert len(made) == 1
    assert all(torch.equal(first[key], again[key]) for key in first)
    base._trained.__wrapped__(data, kind, values, 1, "cpu")
    assert len(made) == 2
    monkeypatch.setattr(kept_fits, "digest_of", lambda code: "another version")
    base._trained.__wrapped__(data, kind, values, 0, "cpu")
    assert len(made) == 3


def test_a_set_that_was_given_other_tokens_gets_another_head(with_tokens, tmp_path):
    """In one process, too: the embeddings, and so their fingerprint, are the same."""
    shutil.copytree(with_tokens.root, tmp_path / "set")
    data = EmbeddingSet.open(tmp_path / "set")
    kind, values = HEADS["late_interaction"], json.dumps({**QUICK, "steps": 2})
    first = base._trained(data, kind, values, 0, "cpu")
    old = Tokens.open(data)
    shape = (*old.image.shape[:2], *old.dims)
    turned = [np.array(old.image)[:, :, ::-1]]
    other = write_tokens(data, turned, [np.array(old.text)], np.array(old.offsets), shape, {"normalised": False})
    assert other.fingerprint == data.fingerprint
    second = base._trained(other, kind, values, 0, "cpu")
    assert not torch.equal(first["image.mean"], second["image.mean"])
    torch.testing.assert_close(first["image.mean"].flip(0), second["image.mean"])


def test_an_edited_head_of_ones_own_is_trained_again(with_tokens, tmp_path, monkeypatch):
    made = []
    real = base.train_head
    monkeypatch.setattr(base, "train_head", lambda *of: (made.append(1), real(*of)))
    file = tmp_path / "own.py"
    monkeypatch.setattr(base.inspect, "getfile", lambda kind: str(file))
    for text, trainings in (("one", 1), ("one", 1), ("two", 2)):
        file.write_text(text)
        values = json.dumps({**QUICK, "steps": 3, "width": 4})
        base._trained.__wrapped__(with_tokens, HEADS["pool"], values, 0, "cpu")
        assert len(made) == trainings


def test_lists_without_folds_are_refused(with_tokens):
    with pytest.raises(UserError, match="scorer=pool is weighed on lists of inner folds"):
        scorers.get("pool", **QUICK).fit(with_tokens, "t2i")


def test_an_unknown_objective_is_told_the_nearest():
    with pytest.raises(UserError, match=r"objective='sofmax': no such objective\. Did you mean 'softmax'\?"):
        scorers.get("pool", objective="sofmax")
