"""A run as one web page that runs no script and asks for nothing from outside: to mail, to keep, to open offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.report.gallery import example, most_moved, own_files, thumbnails
from experiments.report.render import render
from experiments.results.evaluate import evaluate_run
from experiments.results.result import Result, metrics_in, reference, rows_in
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import MEAN_RANK, RANKER
from rank_xmodal.evaluation.significance import holm, paired_p
from rank_xmodal.files import replacing
from rank_xmodal.retrieval.gallery import CLIP
from rank_xmodal.use.reranker import Reranker

LIMIT = 4_800_000
"""Bytes a page should stay below; pictures are made smaller for it."""
_SIZES = ((160, 80), (160, 55), (120, 45), (80, 40), (48, 30))  # longest side and JPEG quality, first that fits


def report_of_run(run: Path, data: EmbeddingSet, out: Path, *, device: str = "auto") -> Path:
    """Judge a finished run once more on the split it was tested on, and write its page; see `write_report`.

    Raises
    ------
    UserError
        If a file of the run is missing or broken, the run has no test, or belongs to another embedding set.
    """
    reranker = Reranker.from_pretrained(run, device)
    facts = reranker.facts
    if facts.get("fingerprint") != data.fingerprint:
        raise UserError(
            f"{run}: was trained on another embedding set ({facts.get('dataset')}) than {data.root or data.name}. "
            "Name the one it was trained on."
        )
    if not facts.get("test"):
        raise UserError(f"{run}: was never tested, for the set had no test split. There is nothing to report.")
    result = evaluate_run(reranker, data, facts["test"]["split"], depth=facts["test"]["candidates"])
    return write_report(out, run.resolve().name, data, facts, result)


def write_report(out: Path, name: str, data: EmbeddingSet, facts: dict[str, Any], result: Result) -> Path:
    """Write the page of a run and return where it is.

    Parameters
    ----------
    out : Path
        The page, an HTML file; or a folder, which gets report.html.
    name, data : str and EmbeddingSet
        The run's name, and what it was judged on.
    facts : dict
        Its config.json.
    result : Result
        How it did; nothing is scored again.
    """
    rows = rows_in(result.report)
    before, after = (result.values[row][MEAN_RANK].numpy() for row in (reference(result.report), RANKER))
    told = {
        "name": name,
        "data": data,
        "facts": {"history": [], "best_epoch": None, "trained_on": ["train"], **facts},
        "report": {"first_stage": CLIP, **result.report},
        "rows": rows,
        "best": {
            n: (min if n == MEAN_RANK else max)(result.report[row][n] for row in rows)
            for n in metrics_in(result.report)
        },
        "compared": _compared(result),
        "together": result.group,
        "rose": before - after,
        "stayed_first": int(((before == after) & (before == 1)).sum()),
    }
    places, file_of = most_moved(result), own_files(data, result.report["split"])
    for side, quality in _SIZES:
        picture = thumbnails(side, quality, file_of)
        gains, losses = ([example(data, result, place, picture) for place in group] for group in places)
        page = render("report.html.j2", **told, gains=gains, losses=losses).encode()
        if len(page) <= LIMIT:
            break
    out = Path(out) / "report.html" if Path(out).is_dir() else Path(out)
    with replacing(out) as part:
        part.write_bytes(page)
    return out


def _compared(result: Result) -> list[tuple[str, float]]:
    """Hold the run's R@1 against the best other row, and the reference: the rows, with p by Holm over both."""
    best = max(rows_in(result.report)[:-1], key=lambda row: result.report[row]["R@1"])
    first = reference(result.report)
    against = [best] if best == first else [best, first]
    own = result.values[RANKER]["R@1"].numpy()
    p = holm(np.array([paired_p(own, result.values[row]["R@1"].numpy(), result.group) for row in against]))
    return list(zip(against, p.tolist(), strict=True))
