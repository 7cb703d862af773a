"""What a scorer costs, measured; a study's table and picture of it."""

import csv

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from experiments.study import cost, engine, plan
from experiments.study.cost import cost_of, cross_encoder_milliseconds
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import write_tokens
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.local import base
from rank_xmodal.scorers.stack import fit_stack

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def with_tokens(random_set, tmp_path_factory):
    """Return images of four cells and captions of three words."""
    splits = ["train"] * 80 + ["test"] * 60
    data = random_set(splits).write(tmp_path_factory.mktemp("cost") / "set")
    rng = np.random.default_rng(0)
    cells, words = rng.normal(size=(140, 4, 6)), rng.normal(size=(420, 5))
    facts = {"normalised": False}
    return write_tokens(
        data, [cells.astype(np.float16)], [words.astype(np.float16)], np.arange(0, 421, 3), (140, 4, 6, 5), facts
    )


BLIP = {
    "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "image_size": 32, "patch_size": 16},
    "text_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "vocab_size": 50, "encoder_hidden_size": 16, "projection_dim": 8},
    "image_text_hidden_size": 8,
}  # fmt: skip


def test_bytes_of_an_item_are_its_embedding_its_neighbours_and_its_tokens(with_tokens):
    gallery = rank_gallery(with_tokens, "t2i", "test")
    data = with_tokens
    wide = data.image_emb.shape[1]
    cosine = cost_of(fit_stack(scorers.get("clip"), data, "t2i", device=CPU), data, gallery, CPU, 1.0)
    csls = cost_of(fit_stack(scorers.get("csls"), data, "t2i", device=CPU), data, gallery, CPU, 1.0)
    assert cosine.item_bytes == 2 * wide
    assert csls.item_bytes == 2 * wide + 10 * (4 + 8)  # ten neighbours: a cosine and a group
    scorer = scorers.get("late_interaction", width=4, steps=2, batch_size=8, device="cpu", residual=False)
    scorer.trained_on(data, "t2i", 0, CPU)
    stack = Stack(scorer, data.queries("t2i")[:5])
    assert cost_of(stack, data, gallery, CPU, 1.0).item_bytes == 2 * wide + 2 * 4 * 6


def test_time_is_the_median_of_passes_over_one_query(with_tokens, monkeypatch):
    """A clock that moves on by the number of readings: the first pass is left out."""
    read = []

    def clock():
        read.append(1)
        return float(len(read) ** 2)

    monkeypatch.setattr(cost.time, "perf_counter", clock)
    gallery = rank_gallery(with_tokens, "t2i", "test")
    found = cost_of(fit_stack(scorers.get("clip"), with_tokens, "t2i", device=CPU), with_tokens, gallery, CPU, 7.0)
    passes = [(2 * n) ** 2 - (2 * n - 1) ** 2 for n in range(2, 11)]  # reading 2n - 1 and reading 2n
    assert len(read) == 20
    assert found.milliseconds == pytest.approx(1000 * sorted(passes)[4] / 32)
    assert found.seconds == 7.0


def test_a_cross_encoder_is_timed_with_random_weights():
    transformers = pytest.importorskip("transformers")
    before = torch.get_rng_state()
    milliseconds = cross_encoder_milliseconds(CPU, transformers.BlipConfig(**BLIP))
    assert 0 < milliseconds < 10_000
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def timed(with_tokens, tmp_path, monkeypatch):
    """Return a function that runs a plan of costs: its table and the folder."""
    monkeypatch.setattr(engine, "cross_encoder_milliseconds", lambda device: 1234.5)

    def run(width=4):
        words = {"width": width, "steps": 3, "batch_size": 8, "negatives": 10, "pool": 40, "folds": 2}
        rows = {"cosine alone": {"scorer": "clip"}, "words": {"scorer": "late_interaction", **words}}
        values = {"rows": rows, "settings": {"device": "cpu"}, "judge": "test", "seeds": 1, "cost": True}
        (tmp_path / "costs.yaml").write_text(yaml.safe_dump(values))
        read = plan.read(tmp_path / "costs.yaml", [])
        return engine.study(read, with_tokens, ["t2i"], tmp_path / "out", tracking=None, say=lambda line: None)

    return run, tmp_path / "out"


def test_a_study_of_costs_writes_them_into_table_and_picture(timed):
    run, out = timed
    run()
    with (out / "table.csv").open() as handle:
        rows = {row["row"]: row for row in csv.DictReader(handle)}
    for name in ("cosine alone", "words"):
        assert float(rows[name]["fit, s"].replace(",", "")) >= 0
        assert float(rows[name]["ms a query"]) > 0
    sizes = [float(rows[name]["bytes an item"].replace(",", "")) for name in ("cosine alone", "words")]
    assert sizes[1] > sizes[0]
    assert "random weights" in (out / "table.md").read_text()
    assert "1,234 ms a query" in (out / "table.md").read_text()
    with Image.open(out / "cost.png") as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > 500


def test_without_transformers_the_note_says_so(timed, monkeypatch):
    run, out = timed

    def absent(device):
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(engine, "cross_encoder_milliseconds", absent)
    run()
    said = (out / "table.md").read_text()
    assert "not timed (No module named 'transformers')" in said


def test_a_trial_that_is_timed_takes_up_no_fit(timed, with_tokens, monkeypatch):
    run, _ = timed
    words = {"width": 5, "steps": 3, "batch_size": 8, "device": "cpu"}
    monkeypatch.setattr(base, "_trained", base._trained.__wrapped__)  # without the memory of the process
    made, real = [], base.train_head
    monkeypatch.setattr(base, "train_head", lambda *of: (made.append(1), real(*of)))
    data = EmbeddingSet.open(with_tokens.root)
    for _ in range(2):
        scorers.get("late_interaction", **words).trained_on(data, "t2i", 0, CPU)
    assert len(made) == 1  # kept beside the set
    run(width=5)
    assert len(made) == 1 + 3  # two inner folds and all of train
