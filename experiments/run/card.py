"""The model card of a run: its README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.results.names import HEADINGS, run_name
from experiments.results.result import row_label, rows_in
from experiments.results.text import markdown, visible
from experiments.run.procedure import Fitted
from experiments.run.versions import versions
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.evaluation.judging import MEAN_RANK, SHOWN
from rank_xmodal.scorers import ScorerSettings


def card(
    data: EmbeddingSet, direction: str, settings: ScorerSettings, fitted: Fitted, report: dict[str, Any], out: Path
) -> str:
    """Return the card as Markdown."""
    scorer = fitted.stack.scorer
    path = visible(json.dumps(str(out), ensure_ascii=False))  # quoted as Python does, too
    lines = [
        "---",
        "library_name: rank_xmodal",
        "tags: [learning-to-rank, clip, image-text-retrieval]",
        "---",
        "",
        f"# {run_name(settings, direction)} on {markdown(data.name)}",
        "",
        f"{scorer.label} ({scorer.paper}). Reorders the top candidates of a first stage, {HEADINGS[direction]}. "
        f"Fitted on frozen embeddings of {markdown(str(data.meta.get('encoder') or 'an unknown encoder'))} "
        f"({markdown(str(data.meta.get('pretrained') or 'unknown weights'))}); embeddings of another model won't do.",
        "",
    ]
    if report:
        lines += _figures(report)
    epoch = ""
    if fitted.best_epoch is not None:
        epoch = f"Best epoch {fitted.best_epoch} of {len(fitted.history) - 1}; "
    looked_at = [name for name in ("tokens", "content") if getattr(scorer.needs, name)]
    given, asked = ("".join(f", {name}={side}{name}" for name in looked_at) for side in ("", "query_"))
    lines += [
        f"{epoch}trained on {' and '.join(fitted.trained_on)}; query bank of {len(fitted.stack.bank):,} training "
        "queries.",
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


def _figures(report: dict[str, Any]) -> list[str]:
    lines = [
        f"Test: {report['queries']:,} queries, a gallery of {report['gallery']:,}, the top {report['candidates']} "
        f"reordered (ceiling {100 * report['ceiling']:.1f} %). R@K is the hit rate, in %.",
        "",
        "| row | " + " | ".join(SHOWN) + " |",
        "|---|" + "---:|" * len(SHOWN),
    ]
    for row in rows_in(report):
        figures = [f"{report[row][n]:.2f}" if n == MEAN_RANK else f"{100 * report[row][n]:.2f}" for n in SHOWN]
        lines.append(f"| {row_label(row)} | " + " | ".join(figures) + " |")
    return [*lines, ""]
