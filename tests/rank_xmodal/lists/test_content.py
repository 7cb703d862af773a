"""Captions and image files by row, and that they come along only where a scorer asks for them."""

from dataclasses import replace

import torch

from rank_xmodal import scorers
from rank_xmodal.lists.content import Content
from rank_xmodal.scorers import Stack


def test_paths_begin_in_the_sets_folder_unless_they_are_absolute(corpus, tmp_path):
    data = corpus.planted(images=40)
    data = replace(data, images=data.images.assign(path=["a.png", "/b.png", "", *["c.png"] * 37]))
    assert Content.of(data, "t2i").candidates[:3] == ["a.png", "/b.png", ""]
    written = data.write(tmp_path / "set")
    part = replace(written, root=None, cut_of=written)
    for one in (written, part):
        content = Content.of(one, "t2i")
        assert content.candidates[:3] == [str(tmp_path / "set/a.png"), "/b.png", ""]
        assert content.queries[:2] == ["caption 0", "caption 1"]
    assert Content.of(written, "t2i").pair(5, 1) == ("caption 5", "/b.png")
    assert Content.of(written, "i2t").pair(1, 5) == ("caption 5", "/b.png")


def test_a_batch_has_content_where_the_scorer_looks_at_it(corpus):
    for name in ("clip", "remote"):
        stack = Stack(scorers.get(name), corpus.data.text_emb[:5])
        batch, _ = stack.tensors(corpus.data, corpus.lists, torch.device("cpu")).batch(torch.arange(3))
        assert (batch.content is None) == (name == "clip")
    for row in range(3):
        rows = (int(batch.query_row[row]), int(batch.rows[row, 0]))
        assert batch.content.pair(*rows) == (corpus.data.texts["text"][rows[0]], corpus.data.images["path"][rows[1]])
