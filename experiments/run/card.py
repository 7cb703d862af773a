"""The model card of a run: its README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.results.names import HEADINGS, run_name
from experiments.results.result import metrics_in, row_label, rows_in
from experiments.results.text import markdown, visible
from experiments.run.procedure import Fitted
from experiments.run.versions import versions
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.evaluation.judging import MEAN_RANK
from rank_xmodal.retrieval.gallery import CLIP
from rank_xmodal.scorers import ScorerSettings, Stack


def card(
    data: EmbeddingSet, direction: str, settings: ScorerSettings, fitted: Fitted, report: dict[str, Any], out: Path
) -> str:
    """Return the card as Markdown."""
    scorer = fitted.stack.scorer
    path = visible(json.dumps(str(out), ensure_ascii=False))  # quoted as Python does, too
    lines = [
        "---",
        "library_name: rank_xmodal",
        f"tags: [learning-to-rank, {'clip, ' * data.aligned}image-text-retrieval]",
        "---",
        "",
        f"# {run_name(settings, direction)} on {markdown(data.name)}",
        "",
        f"{scorer.label} ({scorer.paper}). {_about(data, direction, fitted.stack)}",
        "",
    ]
    if report:
        lines += figures(report)
    looked_at = [name for name in ("tokens", "content") if getattr(scorer.needs, name)]
    given, asked = ("".join(f", {name}={side}{name}" for name in looked_at) for side in ("", "query_"))
    lines += [
        f"{_fitted(fitted)}. Query bank of {len(fitted.stack.bank):,} training queries.",
        "",
        "```python",
        "from rank_xmodal import Reranker",
        "",
        f"index = Reranker.from_pretrained({path}).index(embeddings, ids=ids{given})",
        f"hits = index.search(query_embeddings, k=10{asked})",
        "```",
        "",
        "Settings:",
        "",
        "```json",
        json.dumps(settings.model_dump(mode="json"), indent=2),
        "```",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _fitted(fitted: Fitted) -> str:
    """Say which epoch of which fit the ranker is."""
    trained, best = " and ".join(fitted.trained_on), fitted.best_epoch
    if best is None:
        return f"Trained on {trained}"
    chosen = f"poch {best} of {len(fitted.history) - 1}"
    if len(fitted.trained_on) > 1:  # by another fit than the one whose epochs are counted
        return f"E{chosen} was the best on val; then trained again on {trained}, up to that epoch"
    return f"The ranker is that of e{chosen}, trained on {trained}"


def _about(data: EmbeddingSet, direction: str, stack: Stack) -> str:
    """Say what the run does with what it is given, and what it was fitted on."""
    if data.aligned:
        encoder = data.meta.get("encoder") or "an unknown encoder"
        weights = data.meta.get("pretrained") or "unknown weights"
        return (
            f"Reorders the top candidates of a first stage, {HEADINGS[direction]}. Fitted on frozen embeddings of "
            f"{markdown(str(encoder))} ({markdown(str(weights))}); embeddings of another model won't do."
        )
    finds = "Finds candidates in a space of its own"
    if stack.scorer.space is None:
        finds = f"Reorders the top candidates that are found by {row_label(stack.own_first_stage)}"
    image, text = data.dims
    return (
        f"{finds}, {HEADINGS[direction]}. Fitted on features of two kinds that share no space, images {image} and "
        f"texts {text} wide; features of other kinds won't do."
    )


def figures(report: dict[str, Any]) -> list[str]:
    """Return what the report says as lines of Markdown: what was ranked, and a table of the rows."""
    metrics, first = metrics_in(report), report.get("first_stage", CLIP)
    found = "" if first == CLIP else f" by {row_label(first)}"
    said = [
        f"Test: {report['queries']:,} queries, a gallery of {report['gallery']:,}, the top {report['candidates']}"
        f"{found} reordered (ceiling {100 * report['ceiling']:.1f} %). R@K is the hit rate, in %."
    ]
    if CLASS_MAP in metrics:
        said.append(
            f"{CLASS_MAP} is the mean average precision over the whole gallery, in %, where all that shares a class "
            "with the query is relevant: a row with a space of its own ranks the gallery there, a list of the others "
            "goes before the first stage's order of the rest."
        )
    return [" ".join(said), "", *table(report)]


def table(report: dict[str, Any]) -> list[str]:
    """Return the rows' figures as a table in Markdown, and an empty line."""
    metrics = metrics_in(report)
    lines = ["| row | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    for row in rows_in(report):
        cells = [f"{report[row][n]:.2f}" if n == MEAN_RANK else f"{100 * report[row][n]:.2f}" for n in metrics]
        lines.append(f"| {row_label(row)} | " + " | ".join(cells) + " |")
    return [*lines, ""]
