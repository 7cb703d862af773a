"""Are these CLIP's embeddings as published?

Compares CLIP's own rows on the test split of an embedding set with the zero-shot figures that open_clip publishes for
the same model and weights, before anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table

import experiments
from data_prep.weights import check_quick_gelu
from experiments.results.names import HEADINGS
from rank_xmodal.data.embedding_set import DIRECTIONS, Direction, EmbeddingSet
from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.evaluation.judging import mean, per_query
from rank_xmodal.files import read_yaml
from rank_xmodal.retrieval.gallery import rank_gallery

TOLERANCE = 0.3
"""Points a figure may be off: about what half precision and another image decoder move it by."""
METRICS = ("R@1", "R@5", "R@10")
CAPTIONS = 5
"""Captions of an image that the published figures are over: its first five."""

_DEEPEST = 10  # of METRICS


# Images and captions of Karpathy's test splits.
SPLITS = {"flickr30k": (1_000, 5_000), "coco": (5_000, 25_010)}

Figures = dict[str, dict[Direction, tuple[float, float, float]]]


def _published() -> dict[tuple[str, str], Figures]:
    """Read what open_clip publishes, by model and pretrained tag."""
    read = read_yaml(Path(experiments.__file__).parent / "plans" / "published" / "openclip.yaml")
    return {
        (one["model"], one["pretrained"]): {
            dataset: {direction: tuple(one[dataset][direction]) for direction in DIRECTIONS} for dataset in SPLITS
        }
        for one in read["models"]
    }


PUBLISHED = _published()


@dataclass(frozen=True)
class Line:
    """One figure: measured and published, in %."""

    direction: Direction
    metric: str
    measured: float
    published: float

    @property
    def difference(self) -> float:
        """Measured less published."""
        return self.measured - self.published

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= TOLERANCE + 1e-9


def published(data: EmbeddingSet, dataset: str) -> dict[Direction, tuple[float, float, float]]:
    """Return the figures published for the set's model and weights.

    Raises
    ------
    UserError
        If the set was made of another data set, doesn't say by which model, or nothing is published for that.
    """
    where = f"{data.root / 'meta.json' if data.root else data.name}"
    made_of, encoder, weights = (data.meta.get(key) for key in ("dataset", "encoder", "pretrained"))
    if made_of in SPLITS and made_of != dataset:
        raise UserError(
            f"{where}: dataset {made_of!r}, not {dataset!r}. Verify it as {made_of}, or name another --data."
        )
    if not encoder or not weights:
        raise UserError(
            f"{where}: encoder {encoder!r}, pretrained {weights!r}: nobody knows what to compare with. Make the set "
            "with `rank-xmodal embed`."
        )
    key = (encoder, weights)
    if key not in PUBLISHED and weights == "openai":
        # Under this tag open_clip computes QuickGELU by either name; the file names most models without it.
        key = (encoder.removesuffix("-quickgelu"), weights)
    if key not in PUBLISHED:
        names = [f"{model}/{tag}" for model, tag in PUBLISHED]
        hint = did_you_mean(f"{encoder}/{weights}", names)
        raise UserError(
            f"{where}: no figures are known here for encoder {encoder!r} with pretrained {weights!r}.{hint} Known are "
            f"{', '.join(names)}."
        )
    return PUBLISHED[key][dataset]


def first_captions(data: EmbeddingSet, count: int = CAPTIONS) -> EmbeddingSet:
    """Return the set without the test captions beyond each image's first `count`: 10 of COCO's 25,010."""
    pairs = data.relevance.sort_values(["image", "text"])
    beyond = pairs["text"][pairs.groupby("image").cumcount() >= count].to_numpy()
    splits = data.texts["split"].to_numpy(dtype=object, copy=True)
    dropped = beyond[splits[beyond] == "test"]
    splits[dropped] = "left out"
    return replace(data, texts=data.texts.assign(split=splits)) if len(dropped) else data


def measure(data: EmbeddingSet, direction: Direction) -> dict[str, float]:
    """Return CLIP's own row on the test split, in %."""
    stage = rank_gallery(data, direction, "test", _DEEPEST)
    values = mean(per_query(torch.from_numpy(stage.lists.cosine), stage))
    return {name: 100 * values[name] for name in METRICS}


def compare(data: EmbeddingSet, dataset: str) -> list[Line]:
    """Return a line for each direction and metric.

    Raises
    ------
    UserError
        If there is nothing to compare with, or no test split.
    """
    known = published(data, dataset)
    counted = first_captions(data)
    lines = []
    for direction in DIRECTIONS:
        measured = measure(counted, direction)
        lines += [
            Line(direction, metric, measured[metric], value)
            for metric, value in zip(METRICS, known[direction], strict=True)
        ]
    return lines


def miscounts(data: EmbeddingSet, dataset: str) -> list[str]:
    """Return where the test split has another number of images or captions than Karpathy's."""
    images, texts = SPLITS[dataset]
    counts = {
        "images": int((data.images["split"] == "test").sum()),
        "texts": int((data.texts["split"] == "test").sum()),
    }
    found = []
    if counts["images"] != images:
        found.append(
            f"test images: {counts['images']:,} instead of {images:,}: not Karpathy's test split, or a part of it"
        )
    if counts["texts"] != texts:
        found.append(
            f"test captions: {counts['texts']:,} instead of {texts:,}: captions are missing or doubled "
            f"(an image's first {CAPTIONS} are compared)"
        )
    return found


def causes(data: EmbeddingSet, dataset: str) -> list[str]:
    """Return what may be behind a difference: what the set shows to be wrong first, then what it can't show."""
    found, unseen = miscounts(data, dataset), []
    encoder, weights = str(data.meta.get("encoder")), str(data.meta.get("pretrained"))
    try:
        check_quick_gelu(encoder, weights)
    except UserError as error:
        found.append(f"QuickGELU: {error}")
    precision = data.meta.get("precision")
    if precision is None:
        unseen.append("precision: meta.json does not say which; compare with a set made in fp32")
    elif precision != "fp32":
        found.append(f"precision: made in {precision}; it moves a figure by 0.1 or so, seldom more. Make one in fp32")
    unseen.append(
        "preprocessing: images resized or compressed before they were embedded, another resolution than the model's, "
        "another interpolation than bicubic, no centre crop, or captions changed"
    )
    unseen.append("weights: a damaged or another file under the same name (weights_sha256 in meta.json)")
    return [*(f"seen:     {text}" for text in found), *(f"possible: {text}" for text in unseen)]


def table(data: EmbeddingSet, dataset: str, lines: list[Line]) -> Table:
    """Return what `compare` found as people read it."""
    shown = Table(
        title=f"{data.name}: CLIP on {dataset}'s test split, {data.meta['encoder']}/{data.meta['pretrained']}; %",
        caption=f"Published: open_clip, docs/openclip_retrieval_results.csv. Tolerance {TOLERANCE} points.",
    )
    for column in ("direction", "metric", "measured", "published", "difference", ""):
        shown.add_column(column, justify="left" if column in ("direction", "metric", "") else "right", no_wrap=True)
    for line in lines:
        shown.add_row(
            HEADINGS[line.direction],
            line.metric,
            f"{line.measured:.2f}",
            f"{line.published:.2f}",
            f"{line.difference:+.2f}",
            "" if line.agrees else "off",
        )
    return shown


def verdict(data: EmbeddingSet, dataset: str, lines: list[Line]) -> tuple[bool, list[str]]:
    """Return whether all figures agree, and what to say."""
    off = sum(not line.agrees for line in lines)
    if not off:
        beside = [f"  And yet, {cause}" for cause in miscounts(data, dataset)]
        return True, [f"All {len(lines)} figures agree.", *beside]
    said = f"{off} of {len(lines)} figures are off by more than {TOLERANCE} points. Before training, look at:"
    return False, [said, *(f"  {cause}" for cause in causes(data, dataset))]
