"""The ranker with heads over words and cells: their scores join its own, and are cross-fitted as those are."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, write_json
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.context_aware import combine
from rank_xmodal.scorers.context_aware.evidence import of_scores
from rank_xmodal.scorers.folder import load, save
from rank_xmodal.scorers.local.base import FEATURES as OF_A_HEAD
from rank_xmodal.scorers.local.base import Local
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
LOCAL = ("late_interaction", "pool")
pytestmark = pytest.mark.usefixtures("small_heads")


def parts_of(corpus, data, direction="t2i"):
    return [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in inner_folds(data, 2)]


def fitted(corpus, data, direction="t2i", **values):
    scorer = scorers.get("context_aware", device="cpu", **values)
    return fit_stack(scorer, data, direction, parts=parts_of(corpus, data, direction), device=CPU)


def scores_of(stack, data, direction="t2i"):
    return score_lists(stack.scorer, stack.tensors(data, rank_gallery(data, direction, "test").lists, CPU))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_it_beats_the_same_ranker_without_heads(corpus, with_tokens, direction):
    found = [
        corpus.report_of(fitted(corpus, with_tokens, direction, local=local), with_tokens, direction)[0]
        for local in (LOCAL, ())
    ]
    assert found[0]["ranker"]["MRR"] > found[1]["ranker"]["MRR"] + 0.1
    assert found[0]["csls_on_vsepp"] == found[1]["csls_on_vsepp"], "the rows beside it look at no token"


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_saved_and_loaded_it_scores_the_same(corpus, with_tokens, small_heads, direction, tmp_path):
    """By its heads' own settings, whatever the defaults are by then."""
    stack = fitted(corpus, with_tokens, direction, local=LOCAL)
    save(tmp_path, stack, {"direction": direction}, "a card")
    small_heads(width=4)
    again, _ = load(tmp_path)
    assert [head.settings.width for head in again.scorer.network.heads] == [16, 16]
    one, two = (scores_of(which, with_tokens, direction) for which in (again, stack))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_heads_that_are_not_those_of_its_tensors_are_refused(corpus, with_tokens, tmp_path):
    save(tmp_path, fitted(corpus, with_tokens, local=LOCAL), {"direction": "t2i"}, "a card")
    whole = read_json(tmp_path / "config.json")
    for model, said in (
        ({"local": ["pool", "no such head"]}, "its heads over words and cells are pool, no such head"),
        ({"local": ["pool"]}, "not a whole ranker"),
        ({"local_settings": {}}, "not a whole ranker"),
        ({"local_settings": {name: {"width": 65_536} for name in LOCAL}}, "not a whole ranker"),
        ({"direction": "both"}, "must be t2i"),
    ):
        write_json(tmp_path / "config.json", {**whole, "model": {**whole["model"], **model}})
        with pytest.raises(UserError, match=said):
            load(tmp_path)


def test_each_training_list_is_scored_by_heads_that_have_not_met_it(corpus, with_tokens, monkeypatch):
    met, real = [], Local.trained_on

    def spied(head, data, direction, seed, device):
        met.append((head.name, data))
        return real(head, data, direction, seed, device)

    monkeypatch.setattr(Local, "trained_on", spied)
    parts = parts_of(corpus, with_tokens)
    scorer = scorers.get("context_aware", device="cpu", local=LOCAL)
    fit_stack(scorer, with_tokens, "t2i", parts=parts, device=CPU)
    knows = [part.knows for part in parts] + [with_tokens]
    assert [(name, data.fingerprint) for name, data in met] == [(n, data.fingerprint) for data in knows for n in LOCAL]
    for place, part in enumerate(parts):
        for _, data in met[2 * place : 2 * place + 2]:
            assert set(data.query_rows("t2i", "train")).isdisjoint(part.lists.query.tolist())
            assert set(data.candidate_rows("t2i", "train")).isdisjoint(part.lists.candidates.ravel().tolist())


def test_heads_that_have_met_their_lists_look_better_than_they_are(corpus, with_tokens):
    """What cross-fitting is for."""
    parts = parts_of(corpus, with_tokens)
    everything = replace(with_tokens, meta={**with_tokens.meta, "fingerprint": "tokens, all"}, root=None,
                         kept=None, cut_of=with_tokens)  # fmt: skip
    losses = []
    for some in (parts, [replace(part, knows=everything) for part in parts]):
        scorer = scorers.get("context_aware", device="cpu", local=LOCAL)
        stack = fit_stack(scorer, with_tokens, "t2i", parts=some, device=CPU)
        losses.append(stack.scorer.history[0]["loss"])
    assert losses[1] < 0.7 * losses[0]


def test_padding_changes_no_score_and_lists_are_scored_as_a_whole_corpus(corpus, with_tokens):
    stack = fitted(corpus, with_tokens, local=LOCAL)
    tensors = stack.tensors(with_tokens, rank_gallery(with_tokens, "t2i", "test").lists, CPU)
    whole = score_lists(stack.scorer, tensors)
    batch, _ = tensors.batch(torch.arange(3))
    torch.testing.assert_close(stack.scorer.score(batch), whole[:3], rtol=1e-3, atol=1e-3)
    few = tensors.first(3)
    longer = {name: pad(getattr(few, name), (0, 4), value=-1) for name in ("places", "rows", "labels", "cosine")}
    padded, _ = replace(few, **longer).batch(torch.arange(3))
    torch.testing.assert_close(stack.scorer.score(padded)[:, :-4], whole[:3], rtol=1e-3, atol=1e-3)


def test_a_set_without_tokens_is_refused(corpus):
    with pytest.raises(UserError, match=r"has no tokens\. Make them with `rank-xmodal embed \.\.\. --tokens features`"):
        fitted(corpus, corpus.data, local=LOCAL)
    scorer = scorers.get("context_aware", local=LOCAL)
    with pytest.raises(UserError, match="holds no words and cells, which scorer=context_aware needs"):
        scorer.needs.check(scorer.name, corpus.data)


def test_what_is_no_setting_of_heads_is_refused():
    with pytest.raises(UserError, match=r"no such head: 'pol'\. Did you mean 'pool'\? Known are late_interaction, "):
        scorers.get("context_aware", local=["pol"])
    with pytest.raises(UserError, match="'pool' stands there twice; name each head once"):
        scorers.get("context_aware", local=["pool", "views", "pool"])
    with pytest.raises(UserError, match="local is a setting of features=full, not of features=embeddings"):
        scorers.get("context_aware", features="embeddings", local=["pool"])


def test_without_a_score_of_the_base_a_head_is_no_part_of_the_start():
    """Its weight starts at 0, whatever its features are called."""
    local = [f"pool{feature}" for feature in OF_A_HEAD]
    kept = {**of_scores(["centred"]), **dict.fromkeys(local, True)}
    start = combine._start(None, kept)
    assert [name for name, weight in zip(kept, start.tolist(), strict=True) if weight] == ["centred, CSLS"]
