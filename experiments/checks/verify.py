"""Are these CLIP's embeddings as published?

Compares CLIP's own rows on the test split of an embedding set with the zero-shot figures that open_clip publishes for
the same model and weights, before anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from rich.table import Table

from data_prep.weights import check_quick_gelu
from experiments.results.names import HEADINGS
from rank_xmodal.data.embedding_set import DIRECTIONS, Direction, EmbeddingSet
from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.evaluation.judging import mean, per_query
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


def _figures(*values: float) -> Figures:
    t2i, i2t, coco_t2i, coco_i2t = (values[k : k + 3] for k in (0, 3, 6, 9))
    return {"flickr30k": {"t2i": t2i, "i2t": i2t}, "coco": {"t2i": coco_t2i, "i2t": coco_i2t}}  # type: ignore[dict-item]


# open_clip's docs/openclip_retrieval_results.csv at commit 05e7db4, in %: Flickr30K's image retrieval R@1, R@5, R@10,
# its text retrieval, then the same of COCO. Image retrieval is text to image.
# fmt: off
PUBLISHED: dict[tuple[str, str], Figures] = {
    ("ViT-B-32-quickgelu", "openai"): _figures(
        58.78, 83.56, 90.02,  78.90, 94.90, 98.20,  30.44, 55.94, 66.87,  50.12, 75.00, 83.52),
    ("ViT-B-32", "openai"): _figures(
        58.78, 83.56, 90.02,  78.90, 94.90, 98.20,  30.44, 55.94, 66.87,  50.12, 75.00, 83.52),
    ("ViT-B-16", "openai"): _figures(
        62.16, 85.72, 91.92,  82.20, 96.60, 99.00,  33.09, 58.42, 68.99,  52.42, 76.70, 84.62),
    ("ViT-L-14", "openai"): _figures(
        64.96, 87.24, 92.04,  85.20, 97.40, 99.20,  36.51, 61.06, 71.13,  56.34, 79.38, 86.60),
    ("ViT-L-14-336", "openai"): _figures(
        66.90, 89.00, 93.34,  87.70, 98.50, 99.40,  37.09, 61.62, 71.47,  57.94, 81.20, 87.92),
    ("RN50-quickgelu", "openai"): _figures(
        57.36, 83.18, 90.04,  80.00, 95.00, 97.90,  28.54, 52.91, 64.59,  48.84, 72.78, 82.12),
    ("RN101-quickgelu", "openai"): _figures(
        58.04, 82.28, 88.52,  79.00, 94.90, 97.40,  30.69, 55.46, 66.03,  49.82, 74.48, 82.50),
    ("ViT-B-32-quickgelu", "laion400m_e32"): _figures(
        61.70, 85.46, 90.86,  78.80, 94.00, 97.00,  35.33, 60.89, 71.65,  52.58, 76.72, 84.64),
    ("ViT-B-32", "laion2b_s34b_b79k"): _figures(
        66.78, 88.38, 93.10,  84.10, 96.20, 98.30,  39.34, 65.43, 75.61,  56.32, 79.84, 87.12),
    ("ViT-B-32", "datacomp_xl_s13b_b90k"): _figures(
        61.08, 84.92, 90.92,  79.00, 93.90, 96.20,  37.14, 62.35, 72.68,  53.54, 77.78, 86.04),
    ("ViT-B-16", "laion2b_s34b_b88k"): _figures(
        69.84, 90.38, 94.56,  86.30, 97.90, 99.40,  42.31, 67.70, 77.06,  59.44, 81.78, 88.62),
    ("ViT-B-16", "datacomp_xl_s13b_b90k"): _figures(
        67.56, 88.34, 93.00,  85.10, 97.20, 98.40,  40.16, 65.95, 75.62,  57.44, 80.86, 88.30),
    ("ViT-L-14", "laion2b_s32b_b82k"): _figures(
        75.52, 92.86, 95.94,  89.50, 98.70, 99.40,  46.51, 71.08, 79.80,  63.36, 83.98, 90.74),
    ("ViT-L-14", "datacomp_xl_s13b_b90k"): _figures(
        73.38, 91.74, 95.54,  89.00, 98.60, 99.70,  45.73, 70.03, 79.16,  63.30, 84.14, 90.40),
    ("ViT-H-14", "laion2b_s32b_b79k"): _figures(
        77.64, 94.18, 96.60,  90.70, 99.20, 99.70,  49.48, 73.38, 81.51,  65.92, 86.06, 91.88),
}
# fmt: on


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
