"""A training that is interrupted goes on where it was."""

import pytest
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import rank_gallery


def test_an_interrupted_training_ends_as_an_uninterrupted_one(corpus, tmp_path):
    validation = rank_gallery(corpus.data, "t2i", "val")
    whole = corpus.train(corpus.data, corpus.lists_of(corpus.data), corpus.chosen(), validation=validation)
    seen = []

    def interrupt(epoch, step, steps):
        seen.append(epoch)
        if (epoch, step) == (3, 2):
            raise KeyboardInterrupt

    place = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        corpus.train(
            corpus.data,
            corpus.lists_of(corpus.data),
            corpus.chosen(),
            validation=validation,
            checkpoint=place,
            on_step=interrupt,
        )
    assert sorted(p.name for p in place.iterdir()) == ["state.json", "state.safetensors"]
    seen.clear()
    resumed = corpus.train(
        corpus.data,
        corpus.lists_of(corpus.data),
        corpus.chosen(),
        validation=validation,
        checkpoint=place,
        on_step=lambda e, s, n: seen.append(e),
    )
    assert set(seen) == {3}, "finished epochs are not done again"
    expected, found = whole.scorer.state, resumed.scorer.state
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert [h["val_MRR"] for h in resumed.scorer.history] == [h["val_MRR"] for h in whole.scorer.history]
    assert resumed.scorer.best_epoch == whole.scorer.best_epoch
    assert not place.exists()


def test_a_checkpoint_of_other_settings_is_refused(corpus, tmp_path):
    def interrupt(epoch, step, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corpus.train(
            corpus.data, corpus.lists_of(corpus.data), corpus.chosen(), checkpoint=tmp_path / "c", on_step=interrupt
        )
    with pytest.raises(UserError, match="other settings"):
        corpus.train(corpus.data, corpus.lists_of(corpus.data), corpus.chosen(lr=0.5), checkpoint=tmp_path / "c")
