"""The model card: what it says of where candidates come from, and the figures that it lists."""

import pytest

from experiments.run.card import card, figures, table
from experiments.run.procedure import Fitted
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.files import read_json
from rank_xmodal.scorers.folder import load

ROW = {"R@1": 0.5, "R@5": 0.6, "R@10": 0.7, "MRR": 0.55, "NDCG@10": 0.6, "MeanRank": 4.25}
REPORT = {"queries": 1_000, "gallery": 2_000, "candidates": 51, "ceiling": 0.9, "rows": ["clip", "ranker"]}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cca-t2i", "Finds candidates in a space of its own, text to image."),
        ("csls-i2t", "Reorders the top candidates that are found by CCA, image to text."),
    ],
)
def test_of_features_of_two_kinds_nothing_is_said_to_be_clips(two_kinds, name, told):
    folder, _ = two_kinds
    card = (folder / name / "README.md").read_text(encoding="utf-8")
    assert told in card
    assert "the top 60 by CCA reordered" in card
    assert "Fitted on features of two kinds that share no space, images 7 and texts 4 wide;" in card
    assert "| random order |" in card
    prose = card.replace('"on": "clip"', "").replace("open_clip_torch", "").lower()  # settings and versions as they are
    for word in ("clip", "encoder", "embeddings of another model", "cosine"):
        assert word not in prose
    assert "tags: [learning-to-rank, image-text-retrieval]" in card


def test_where_the_sides_share_a_space_the_first_stage_is_clip(random_set, tmp_path):
    data = random_set(["train"] * 30 + ["test"] * 20).write(tmp_path / "set")
    plan = scorers.parse({"scorer": "csls", "device": "cpu"})
    run_training(data, "t2i", plan, tmp_path / "run", tracking=None, say=lambda line: None)
    card = (tmp_path / "run/README.md").read_text(encoding="utf-8")
    assert "tags: [learning-to-rank, clip, image-text-retrieval]" in card
    assert (
        "Reorders the top candidates of a first stage, text to image. Fitted on frozen embeddings of an unknown" in card
    )
    assert "the top 20 reordered (ceiling" in card
    assert "class MAP" not in card


def test_class_map_is_listed_and_explained_where_the_report_has_it():
    plain = figures({**REPORT, "clip": ROW, "ranker": ROW})
    assert "class MAP" not in "\n".join(plain)
    by_class = {**REPORT, "clip": {**ROW, "class MAP": 0.25}, "ranker": {**ROW, "class MAP": 0.50125}}
    told, _, head, rule, clip, ranker, _ = figures(by_class)
    assert "class MAP is the mean average precision over the whole gallery" in told
    assert "all that shares a class with the query is relevant" in told
    assert head.endswith("| MeanRank | class MAP |")
    assert rule.count("---:") == 7
    assert clip.endswith("| 4.25 | 25.00 |")
    assert ranker.endswith("| 4.25 | 50.12 |") or ranker.endswith("| 4.25 | 50.13 |")


def test_a_trained_runs_card_has_its_class_map(two_kinds):
    folder, _ = two_kinds
    report = read_json(folder / "cca-t2i" / "test.json")
    card = (folder / "cca-t2i" / "README.md").read_text(encoding="utf-8")
    for label, row in (("random order", "chance"), ("ranker", "ranker")):
        line = next(line for line in card.splitlines() if line.startswith(f"| {label} |"))
        assert line.endswith(f" {100 * report[row]['class MAP']:.2f} |")


@pytest.mark.parametrize(
    ("trained_on", "best", "told"),
    [
        (("train",), 3, "The ranker is that of epoch 3 of 4, trained on train. Query bank of"),
        (
            ("train", "val"),
            3,
            "Epoch 3 of 4 was the best on val; then trained again on train and val, up to that epoch.",
        ),
        (("train", "val"), None, "Trained on train and val. Query bank of"),
    ],
)
def test_after_a_second_fit_the_ranker_is_not_called_that_of_an_epoch_of_the_first(two_kinds, trained_on, best, told):
    stack, _ = load(two_kinds[0] / "cca-t2i")
    fitted = Fitted(stack, trained_on, [{"epoch": k} for k in range(5)], best, None)
    said = card(two_kinds[1], "t2i", scorers.parse({"scorer": "cca"}), fitted, {}, two_kinds[0])
    assert told in said
    assert ("The ranker is that of" in said) == (trained_on == ("train",))


def test_the_table_alone_is_what_mlflow_describes_a_run_by():
    assert table({**REPORT, "clip": ROW, "ranker": ROW})[2:] == [
        "| CLIP | 50.00 | 60.00 | 70.00 | 55.00 | 60.00 | 4.25 |",
        "| ranker | 50.00 | 60.00 | 70.00 | 55.00 | 60.00 | 4.25 |",
        "",
    ]
