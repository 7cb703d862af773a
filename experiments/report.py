"""A trained run as one web page: figures, plots, and the queries that it moved most, for better or worse.

The page holds its style, plots and pictures itself, runs no script and asks for nothing from outside, so that it can
be sent by mail, opened offline and kept.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_prep.images import read_image
from experiments.significance import paired_p
from rank_xmodal import metrics, ranker_folder
from rank_xmodal.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import MEAN_RANK, FirstStage, first_stage, per_query, score_lists
from rank_xmodal.files import read_json, read_table, replacing
from rank_xmodal.list_tensors import ListTensors
from rank_xmodal.query_bank import neighbours
from rank_xmodal.ranker_folder import pick_device

SHOWN = 5
"""Candidates shown of a list."""
EXAMPLES = 12
"""Queries shown of the gains, and of the losses."""
LIMIT = 4_800_000
"""Bytes a page should stay below; pictures are made smaller for it."""

_ROWS = (("clip", "CLIP"), ("csls", "CSLS"), ("ranker", "Ranker"))
_COLUMNS = (*metrics.DEFAULT, MEAN_RANK)
_SIZES = ((160, 80), (160, 55), (120, 45), (80, 40), (48, 30))  # longest side and JPEG quality, first that fits
_LONGEST = 280  # characters of a caption; imported texts may be whole pages
_NBSP = " "


@dataclass(frozen=True)
class _Example:
    """A query with its two lists, best first: places in CLIP's list, so that 0 is CLIP's first."""

    query: int
    candidates: np.ndarray
    relevant: np.ndarray
    clip: np.ndarray
    ranker: np.ndarray
    clip_rank: int
    ranker_rank: int


@dataclass
class _Pictures:
    """Thumbnails of a set's images as data URIs; None for what can't be shown."""

    data: EmbeddingSet
    side: int
    quality: int
    _known: dict[int, tuple[str, int, int] | None] = field(default_factory=dict)

    def get(self, row: int) -> tuple[str, int, int] | None:
        """Return URI, width and height."""
        if row not in self._known:
            self._known[row] = self._make(str(self.data.images["path"].iloc[row]))
        return self._known[row]

    def _make(self, path: str) -> tuple[str, int, int] | None:
        if not path:
            return None
        try:
            image = read_image(path)
        except UserError:  # a page with a gap is worth more than none
            return None
        image.thumbnail((self.side, self.side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.quality, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), image.width, image.height


def write_report(run: Path, data: EmbeddingSet, out: Path, *, device: str = "auto") -> Path:
    """Write the page of a trained run and return where it is.

    Parameters
    ----------
    run : Path
        Folder with config.json, model.safetensors, query_bank.npy, test.json and test.parquet.
    data : EmbeddingSet
        The one it was trained and tested on.
    out : Path
        The page, an HTML file; or a folder, which gets report.html.
    device : str
        Where the lists are scored.

    Raises
    ------
    UserError
        If a file of the run is missing or broken, the run has no test, or belongs to another embedding set.
    """
    run, out = Path(run), Path(out)
    model, bank, facts = ranker_folder.load(run)
    if facts.get("fingerprint") != data.fingerprint:
        raise UserError(
            f"{run}: was trained on another embedding set ({facts.get('dataset')}) than {data.root or data.name}. "
            "Name the one it was trained on."
        )
    if not facts.get("test"):
        raise UserError(f"{run}: was never tested, for the set had no test split. There is nothing to report.")
    direction = check_direction(facts["direction"])
    report = read_json(run / "test.json")
    table = read_table(
        run / "test.parquet",
        {f"{row}/{name}": "float64" for row in ("clip", "ranker") for name in ("R@1", MEAN_RANK)},
        "test results",
    )
    stage = first_stage(data, direction, report["split"])
    target = pick_device(device)
    tensors = ListTensors.gather(data, stage.lists, neighbours(data.candidates(direction), bank), target, in_bank=False)
    gains, losses = _examples(stage, score_lists(model.to(target), tensors))
    for side, quality in _SIZES:
        page = _page(run.resolve().name, data, facts, report, table, gains, losses, _Pictures(data, side, quality))
        text = page.encode("utf-8", "replace")
        if len(text) <= LIMIT:
            break
    if out.is_dir():
        out = out / "report.html"
    with replacing(out) as part:
        part.write_bytes(text)
    return out


def _examples(stage: FirstStage, scores: torch.Tensor) -> tuple[list[_Example], list[_Example]]:
    """Return the queries whose first relevant candidate's reciprocal rank rose most, and those where it fell most."""
    labels, cosine = stage.lists.labels, stage.lists.cosine
    ranks = [per_query(s, stage)[MEAN_RANK].numpy() for s in (torch.from_numpy(cosine), scores)]
    change = 1 / ranks[1] - 1 / ranks[0]

    def order(values: np.ndarray, label: np.ndarray) -> np.ndarray:
        # As the metrics have it: among equal scores what isn't relevant comes first.
        found = np.lexsort((label, -values))
        return found[label[found] >= 0]

    def example(place: int) -> _Example:
        label = labels[place]
        return _Example(
            int(stage.lists.query[place]),
            stage.lists.candidates[place],
            label > 0,
            order(cosine[place].astype(float), label),
            order(scores[place].double().numpy(), label),
            int(ranks[0][place]),
            int(ranks[1][place]),
        )

    rising = [p for p in np.argsort(-change, kind="stable")[:EXAMPLES] if change[p] > 0]
    falling = [p for p in np.argsort(change, kind="stable")[:EXAMPLES] if change[p] < 0]
    return [example(p) for p in rising], [example(p) for p in falling]


# ---------------------------------------------------------------------------------------------------------- the page


def _page(
    name: str,
    data: EmbeddingSet,
    facts: dict[str, Any],
    report: dict[str, Any],
    table: pd.DataFrame,
    gains: list[_Example],
    losses: list[_Example],
    pictures: _Pictures,
) -> str:
    direction = facts["direction"]
    asks, answers = ("caption", "image") if direction == "t2i" else ("image", "caption")
    title = f"{name} on {data.name}"
    gallery = _Gallery(data, direction, pictures)
    right = "✓ and a thick frame mark" if direction == "t2i" else "✓ and a bar at the side mark"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<header class="top">
<p class="kicker">{"Text to image" if direction == "t2i" else "Image to text"}</p>
<h1>{escape(name)} <span>on {escape(data.name)}</span></h1>
<p class="result">{_result(report, table)}</p>
<p class="note">{report["queries"]:,} {asks}s of the {escape(str(report["split"]))} split each search
{report["gallery"]:,} {answers}s. CLIP finds the top {report["candidates"]}, the ranker puts these into a new order.</p>
<nav aria-label="On this page"><a href="#figures">Figures</a> <a href="#plots">Plots</a>
<a href="#gains">Best gains</a> <a href="#losses">Worst losses</a> <a href="#settings">Settings</a></nav>
</header>
<main>
<section id="figures">
<h2>Figures</h2>
{_table(report)}
</section>
<section id="plots">
<h2>Plots</h2>
<div class="plots">
{_plots(facts, report, table)}
</div>
</section>
<section id="gains">
<h2>Best gains</h2>
<p class="note">The queries whose first relevant {answers} rose most, by its reciprocal rank. {right} what is
relevant; ▲ and ▼ say how many places the ranker moved a candidate.</p>
{gallery.queries(gains, "No query's first relevant candidate rose.")}
</section>
<section id="losses">
<h2>Worst losses</h2>
<p class="note">The queries whose first relevant {answers} fell most.</p>
{gallery.queries(losses, "No query's first relevant candidate fell.")}
</section>
<section id="settings">
<h2>Settings and versions</h2>
<details>
<summary>How this run was made</summary>
{_settings(facts, data)}
</details>
</section>
</main>
</body>
</html>
"""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{_NBSP}%"


def _result(report: dict[str, Any], table: pd.DataFrame) -> str:
    clip, csls, ranker = (report[row]["R@1"] for row, _ in _ROWS)
    gain = round(100 * (ranker - clip), 1)
    p = paired_p(table["ranker/R@1"].to_numpy(), table["clip/R@1"].to_numpy())
    said = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    by = f"{abs(gain):.1f}{_NBSP}points"
    found = (
        f"a gain of <strong>{by}</strong> over" if gain > 0 else f"<strong>{by}</strong> below" if gain < 0 else "as"
    )
    luck = ", so luck could explain the difference" if p >= 0.05 else ""
    return (
        f"The ranker’s R@1 is <strong>{_percent(ranker)}</strong>, where CLIP has {_percent(clip)} and CSLS "
        f"{_percent(csls)}: {found} CLIP ({escape(said).replace(' ', _NBSP)}, paired randomisation test over "
        f"{len(table):,} queries{luck})."
    )


def _table(report: dict[str, Any]) -> str:
    better = {name: (min if name == MEAN_RANK else max) for name in _COLUMNS}
    best = {name: better[name](report[row][name] for row, _ in _ROWS) for name in _COLUMNS}

    def figure(name: str, value: float, sign: str = "") -> str:
        return f"{value:{sign}.2f}" if name == MEAN_RANK else f"{100 * value:{sign}.1f}"

    lines = []
    for row, label in _ROWS:
        cells = [
            f"<td><strong>{figure(n, report[row][n])}</strong></td>"
            if report[row][n] == best[n]
            else f"<td>{figure(n, report[row][n])}</td>"
            for n in _COLUMNS
        ]
        lines.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    changes = [figure(n, report["ranker"][n] - report["clip"][n], "+").replace("-", "−") for n in _COLUMNS]
    lines.append(
        '<tr class="change"><th scope="row">Ranker over CLIP</th>' + "".join(f"<td>{c}</td>" for c in changes) + "</tr>"
    )
    heads = "".join(f'<th scope="col">{"Mean rank" if n == MEAN_RANK else escape(n)}</th>' for n in _COLUMNS)
    return f"""<div class="wide" role="region" aria-label="Table of figures" tabindex="0">
<table class="figures">
<caption>In %, but for the mean rank of the first relevant candidate, where less is better. Bold is best. R@K is the
share of queries with a relevant candidate among the first K.</caption>
<thead><tr><th scope="col">Order by</th>{heads}</tr></thead>
<tbody>
{chr(10).join(lines)}
</tbody>
</table>
</div>"""


def _settings(facts: dict[str, Any], data: EmbeddingSet) -> str:
    encoder = facts.get("encoder") or {}
    history = facts.get("history") or []
    groups = {
        "Run": {
            "data set": data.name,
            "fingerprint": data.fingerprint,
            "encoder": encoder.get("encoder") or "unknown",
            "weights": encoder.get("pretrained") or "unknown",
            "ranker": facts.get("kind"),
            "best epoch": f"{facts.get('best_epoch')} of {max(len(history) - 1, 0)}",
            "MLflow run": facts.get("mlflow_run") or "none",
        },
        "Settings": facts.get("settings") or {},
        "Model": facts.get("model") or {},
        "Versions": facts.get("versions") or {},
    }
    parts = []
    for heading, values in groups.items():
        rows = "".join(
            f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(_plain(value))}</td></tr>'
            for key, value in values.items()
        )
        parts.append(f'<table class="settings"><caption>{heading}</caption><tbody>{rows}</tbody></table>')
    return '<div class="groups">' + "\n".join(parts) + "</div>"


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, {}) else json.dumps(value)


# ------------------------------------------------------------------------------------------------------- the gallery


def _short(text: str, longest: int = _LONGEST) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


@dataclass(frozen=True)
class _Gallery:
    data: EmbeddingSet
    direction: str
    pictures: _Pictures

    def queries(self, examples: list[_Example], none: str) -> str:
        return "\n".join(map(self._query, examples)) or f"<p>{none}</p>"

    def _query(self, found: _Example) -> str:
        asks = self.direction == "t2i"
        table, column = (self.data.texts, "text_id") if asks else (self.data.images, "image_id")
        own = escape(_short(str(table[column].iloc[found.query]), 80))
        if asks:
            head = f'<h3 dir="auto">“{self._text(found.query)}”</h3>'
            picture = ""
        else:
            head = f"<h3>{'Image'} {own}</h3>"
            picture = f'<figure class="asked">{self._picture(found.query)}</figure>'
        up = found.ranker_rank < found.clip_rank
        moved = abs(found.clip_rank - found.ranker_rank)
        way = f'<span class="pill {"up" if up else "down"}">{"▲" if up else "▼"}{_NBSP}{moved}{_NBSP}'
        way += f"{'place' if moved == 1 else 'places'} {'up' if up else 'down'}</span>"
        which = f'<span class="id">{own}</span>' if asks else ""
        lists = [
            self._list(found, "CLIP", found.clip, found.clip_rank),
            self._list(found, "Ranker", found.ranker, found.ranker_rank),
        ]
        kind = "pictures" if asks else "texts"
        return f"""<article class="query {kind}" data-query="{own}">
<header>{head}<p>{way}{which}</p></header>
<div class="body">{picture}<div class="lists">{"".join(lists)}</div></div>
</article>"""

    def _list(self, found: _Example, label: str, order: np.ndarray, rank: int) -> str:
        items = []
        places = {int(place): k for k, place in enumerate(found.clip)}
        for k, place in enumerate(order[:SHOWN]):
            moved = None if label == "CLIP" else places[int(place)] - k
            items.append(self._candidate(int(found.candidates[place]), bool(found.relevant[place]), k + 1, moved))
        return (
            f'<section><h4>{label} <small>first relevant at rank <span class="rank">{rank:,}</span></small></h4>'
            f'<ol data-by="{label.lower()}">{"".join(items)}</ol></section>'
        )

    def _candidate(self, row: int, relevant: bool, place: int, moved: int | None) -> str:
        pictured = self.direction == "t2i"
        table, column = (self.data.images, "image_id") if pictured else (self.data.texts, "text_id")
        own = escape(str(table[column].iloc[row]))
        shift = ""
        if moved is not None:
            arrow = "▲" if moved > 0 else "▼" if moved < 0 else "="
            told = f"{abs(moved)} {'up' if moved > 0 else 'down'}" if moved else "as by CLIP"
            number = abs(moved) if moved else ""
            shift = f'<span class="shift" title="{told}"><span aria-hidden="true">{arrow}{number}</span>'
            shift += f'<span class="unseen">{told}</span></span>'
        mark = '<span class="mark">✓<span class="word"> relevant</span></span>' if relevant else ""
        head = f'<span class="foot"><span class="place">{place}</span>{mark}{shift}</span>'
        hit = ' class="hit"' if relevant else ""
        body = self._picture(row) + head if pictured else f'{head}<span dir="auto">{self._text(row)}</span>'
        return f'<li{hit} data-id="{own}">{body}</li>'

    def _text(self, row: int) -> str:
        return escape(_short(str(self.data.texts["text"].iloc[row])))

    def _picture(self, row: int) -> str:
        own = _short(str(self.data.images["image_id"].iloc[row]), 80)
        made = self.pictures.get(row)
        if made is None:
            return (
                f'<span class="gap" role="img" aria-label="Image {escape(own)}, no picture at hand">'
                f'<span aria-hidden="true">{escape(own)}</span></span>'
            )
        uri, width, height = made
        said = self._said(row)
        # Quotes around a caption would be one more thing to get wrong in an attribute; a colon does.
        alt = f"Image {own}: {said}" if said else f"Image {own}"
        return (
            f'<img src="{uri}" width="{width}" height="{height}" alt="{escape(alt)}" title="{escape(own)}" '
            'decoding="async">'
        )

    def _said(self, row: int) -> str:
        texts = self.data.relevance_matrix("i2t")[row].indices  # type: ignore[index]
        # Image to text, a caption in the query's alt text would give the answer away; it's the task to find it.
        return _short(str(self.data.texts["text"].iloc[int(texts.min())]), 120) if len(texts) else ""


# --------------------------------------------------------------------------------------------------------- the plots

_W, _H = 440, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 22, 34


def _plots(facts: dict[str, Any], report: dict[str, Any], table: pd.DataFrame) -> str:
    history = facts.get("history") or []
    best = facts.get("best_epoch")
    parts = [_recall(report), _shift(table)]
    loss = _curve(history, "loss")
    if len(loss) > 1:
        caption = f"Training loss by epoch, from {loss[0][1]:.3g} down to {min(v for _, v in loss):.3g}."
        parts.append(_figure("Training loss", _lines([("loss", "loss", loss)], "epoch", None, None), caption))
    seen = [
        (f"val{k}", name, [(e, 100 * v) for e, v in _curve(history, f"val_{name}")])
        for k, name in enumerate(("R@1", "MRR"))
    ]
    seen = [(kind, name, points) for kind, name, points in seen if len(points) > 1]
    if seen:
        caption = f"Validation by epoch, in %; epoch 0 is CLIP. The ranker is that of epoch {best}."
        parts.append(_figure("Validation", _lines(seen, "epoch", best, "%"), caption))
    if report.get("calibration"):
        parts.append(_calibration(report["calibration"]))
    return "\n".join(parts)


def _curve(history: Sequence[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(h["epoch"], h[name]) for h in history if name in h and math.isfinite(h[name])]


def _figure(title: str, body: str, caption: str) -> str:
    return (
        f'<figure><h3>{escape(title)}</h3><svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(title)}: '
        f'{escape(caption)}">{body}</svg><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers between two."""
    raw = (high - low) / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    return [round(k * step, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _label(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _rules(ticks: Sequence[float], y: Callable[[float], float]) -> str:
    return "".join(
        f'<line class="rule" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        + _label(_LEFT - 6, y(t) + 4, f"{t:g}", "quiet", "end")
        for t in ticks
    )


def _keys(kinds: Sequence[tuple[str, str]], x: float = _LEFT) -> str:
    parts = []
    for kind, name in kinds:
        shape = (
            f'<line class="{kind}" x1="{x:.0f}" x2="{x + 14:.0f}" y1="8" y2="8"/>'
            if kind == "ceiling"
            else f'<rect class="{kind}" x="{x:.0f}" y="3" width="10" height="10" rx="2"/>'
        )
        parts.append(shape + _label(x + (18 if kind == "ceiling" else 14), 12, name, "quiet", "start"))
        x += 36 + 6.6 * len(name)
    return "".join(parts)


def _recall(report: dict[str, Any]) -> str:
    names = ("R@1", "R@5", "R@10")
    ceiling = report["ceiling"]

    def y(value: float) -> float:
        return _H - _BOTTOM - (_H - _TOP - _BOTTOM - 12) * value / 100

    wide = (_W - _LEFT - _RIGHT) / len(names)
    bar = 0.27 * wide
    parts = [_keys([*_ROWS, ("ceiling", f"ceiling {_percent(ceiling)}")]), _rules([0, 25, 50, 75, 100], y)]
    for group, name in enumerate(names):
        centre = _LEFT + wide * (group + 0.5)
        for place, (row, _) in enumerate(_ROWS):
            value = 100 * report[row][name]
            x = centre + (place - 1.5) * bar
            tall = y(0) - y(value)
            parts.append(
                f'<rect class="{row}" x="{x + 1:.1f}" y="{y(value):.1f}" width="{bar - 2:.1f}" height="{tall:.1f}" '
                'rx="2"/>'
            )
            # Within the bar where it is tall enough: above it, the ceiling's line would cross the number.
            inside = tall > 30
            kind = f"inside on-{row}" if inside else ""
            parts.append(_label(x + bar / 2, y(value) + (14 if inside else -4), f"{value:.1f}", kind))
        parts.append(_label(centre, _H - _BOTTOM + 18, name))
    line = y(100 * ceiling)
    parts.append(f'<line class="ceiling" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{line:.1f}" y2="{line:.1f}"/>')
    return _figure(
        "R@K on test",
        "".join(parts),
        f"R@K by row, in %. No new order can exceed the ceiling of {_percent(ceiling)}: the share of queries with a "
        f"relevant candidate among CLIP’s top {report['candidates']}.",
    )


_STEPS = ((-math.inf, -11, "> 10"), (-10, -4, "4–10"), (-3, -2, "2–3"), (-1, -1, "1"), (0, 0, "same"), (1, 1, "1"),
          (2, 3, "2–3"), (4, 10, "4–10"), (11, math.inf, "> 10"))  # fmt: skip


def _shift(table: pd.DataFrame) -> str:
    clip, ranker = table[f"clip/{MEAN_RANK}"].to_numpy(), table[f"ranker/{MEAN_RANK}"].to_numpy()
    shift = clip - ranker
    counts = [int(((shift >= low) & (shift <= high)).sum()) for low, high, _ in _STEPS]
    top = max(counts) or 1

    def y(value: float) -> float:
        return _H - _BOTTOM - 14 - (_H - _TOP - _BOTTOM - 20) * value / top

    wide = (_W - 8) / len(_STEPS)
    parts = [f'<line class="axis" x1="4" x2="{_W - 4}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>']
    for place, ((low, high, label), count) in enumerate(zip(_STEPS, counts, strict=True)):
        x = 4 + wide * place
        kind = "fell" if high < 0 else "rose" if low > 0 else "stayed"
        parts.append(
            f'<rect class="{kind}" x="{x + 3:.1f}" y="{y(count):.1f}" width="{wide - 6:.1f}" '
            f'height="{y(0) - y(count):.1f}" rx="2"/>'
        )
        parts.append(_label(x + wide / 2, y(count) - 5, f"{count:,}"))
        parts.append(_label(x + wide / 2, y(0) + 16, label))
    parts.append(_label(4 + wide * 2, _H - 8, "◀ places down", "quiet"))
    parts.append(_label(4 + wide * 7, _H - 8, "places up ▶", "quiet"))
    rose, fell, first = int((shift > 0).sum()), int((shift < 0).sum()), int(((shift == 0) & (clip == 1)).sum())
    return _figure(
        "Queries by rank shift",
        "".join(parts),
        f"How far each query’s first relevant candidate moved from its rank by CLIP: up for {rose:,}, down for "
        f"{fell:,}; of {counts[4]:,} at the same rank, {first:,} were first already.",
    )


def _lines(
    series: list[tuple[str, str, list[tuple[float, float]]]], below: str, mark: float | None, unit: str | None
) -> str:
    points = [point for _, _, own in series for point in own]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(v for _, v in points), max(v for _, v in points)
    room = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    low, high = low - room, high + room
    end = _W - 52  # room for the last values

    def x(value: float) -> float:
        return _LEFT + 6 + (end - _LEFT - 6) * (value - left) / (right - left or 1)

    def y(value: float) -> float:
        return _H - _BOTTOM - (_H - _TOP - _BOTTOM) * (value - low) / (high - low)

    parts = [_rules(_ticks(low, high), y)]
    steps = max(1, math.ceil((right - left) / 8))
    at = [e for e in range(math.ceil(left), math.floor(right) + 1) if (e - math.ceil(left)) % steps == 0]
    parts += [_label(x(e), _H - _BOTTOM + 16, f"{e}", "quiet") for e in at]
    parts.append(_label((_LEFT + end) / 2, _H - 4, below, "quiet"))
    if mark is not None and left <= mark <= right:
        parts.append(f'<line class="mark-line" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>')
        parts.append(_label(x(mark) - 5, _TOP + 10, "kept", "quiet", "end"))
    heights: list[float] = []
    for kind, _, own in series:
        parts.append(
            f'<polyline class="line {kind}" points="{" ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in own)}"/>'
            + "".join(f'<circle class="{kind}" cx="{x(e):.1f}" cy="{y(v):.1f}" r="2.6"/>' for e, v in own)
        )
        height = y(own[-1][1]) + 4
        if heights and abs(height - heights[-1]) < 14:  # two ends at one height would print over one another
            height = heights[-1] + math.copysign(14, height - heights[-1])
        heights.append(height)
        parts.append(_label(x(own[-1][0]) + 8, height, f"{own[-1][1]:.3g}", "", "start"))
    if unit:
        parts.append(_keys([(kind, f"{name}, {unit}") for kind, name, _ in series]))
    return "".join(parts)


def _calibration(found: dict[str, Any]) -> str:
    side = _H - _TOP - _BOTTOM
    start = (_W - side) / 2

    def x(value: float) -> float:
        return start + side * value

    def y(value: float) -> float:
        return _H - _BOTTOM - side * value

    parts = [
        f'<line class="rule" x1="{x(0):.1f}" x2="{x(1):.1f}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        + _label(x(0) - 6, y(t) + 4, f"{t:g}", "quiet", "end")
        + _label(x(t), _H - _BOTTOM + 16, f"{t:g}", "quiet")
        for t in (0, 0.5, 1)
    ]
    parts.append(f'<line class="ceiling" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>')
    curve = found["curve"]
    parts.append(f'<polyline class="line loss" points="{" ".join(f"{x(p):.1f},{y(s):.1f}" for p, s, _ in curve)}"/>')
    for p, share, count in curve:
        told = f"{count:,} pairs of mean probability {p:.2f}, of which {_percent(share)} are relevant"
        parts.append(f'<circle class="loss" cx="{x(p):.1f}" cy="{y(share):.1f}" r="4"><title>{told}</title></circle>')
    parts.append(_label(x(0.5), _H - 4, "predicted probability", "quiet"))
    parts.append(_label(x(0) - 30, 14, "share that is relevant", "quiet", "start"))
    return _figure(
        "Calibration",
        "".join(parts),
        f"Predicted probability against the share that is relevant; on the dotted line the two agree. Calibration "
        f"error {found['ECE']:.4f}, average precision over all pairs {found['AP']:.3f} (the cosine’s is "
        f"{found['clip_AP']:.3f}).",
    )


_CSS = """
:root {
  --paper: #fcfbf9; --card: #ffffff; --ink: #1d2126; --quiet: #5b636d; --line: #e1ddd6; --tile: #efece6;
  --good: #0b7a4b; --good-ink: #ffffff; --good-wash: #e7f4ec; --bad: #b3372b; --bad-wash: #faebe8;
  --clip: #a3a9b1; --on-clip: #1d2126; --csls: #7d63b5; --on-csls: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1c2024; --ink: #e8e6e1; --quiet: #a0a8b0; --line: #33393f; --tile: #262b30;
    --good: #4cc38a; --good-ink: #0d1a13; --good-wash: #173326; --bad: #f08375; --bad-wash: #3a1f1c;
    --clip: #7c848d; --on-clip: #0e1113; --csls: #a890de; --on-csls: #16101f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; padding: clamp(1rem, 4vw, 3rem) clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 76rem;
  background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
}
h1, h2, h3, h4, p { margin: 0; text-wrap: pretty; }
h1 { font-size: clamp(1.7rem, 1.2rem + 2.2vw, 2.6rem); line-height: 1.15; letter-spacing: -0.02em; }
h1 span { color: var(--quiet); font-weight: 400; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 0 0 0.6rem; }
h3 { font-size: 1rem; line-height: 1.4; }
h4 { font-size: 0.85rem; margin: 0 0 0.45rem; }
h4 small { font-size: 0.8rem; font-weight: 400; color: var(--quiet); margin-left: 0.35rem; }
.kicker { color: var(--good); font-weight: 600; font-size: 0.85rem; margin-bottom: 0.35rem; }
.result { font-size: clamp(1.1rem, 1rem + 0.5vw, 1.3rem); line-height: 1.5; max-width: 46rem; margin-top: 0.9rem; }
.note { color: var(--quiet); max-width: 46rem; font-size: 0.95rem; margin-top: 0.5rem; }
h2 + .note { margin: -0.3rem 0 1rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; margin-top: 1.1rem; font-size: 0.95rem; }
a { color: var(--good); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
:focus-visible { outline: 2px solid var(--good); outline-offset: 3px; border-radius: 2px; }
main > section { margin-top: 2.8rem; scroll-margin-top: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--quiet); font-size: 0.85rem; padding-top: 0.6rem; }
.figures { width: 100%; min-width: 33rem; max-width: 52rem; overflow-wrap: normal; }
.figures th, .figures td { padding: 0.5rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); }
.figures th:first-child {
  text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--paper); white-space: nowrap;
}
.figures thead th { color: var(--quiet); font-size: 0.85rem; font-weight: 500; white-space: nowrap; }
.figures tbody th { font-weight: 500; }
.figures .change th, .figures .change td { border-bottom: 0; color: var(--quiet); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1rem; }
.plots figure {
  margin: 0; padding: 1rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  display: flex; flex-direction: column;
}
.plots svg { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0.7rem auto; }
figcaption { color: var(--quiet); font-size: 0.85rem; line-height: 1.45; margin-top: auto; }
svg text { font-size: 11.5px; fill: var(--ink); font-family: inherit; font-variant-numeric: tabular-nums; }
svg text.quiet { fill: var(--quiet); }
svg text.inside { font-weight: 600; font-size: 11px; }
svg text.on-clip { fill: var(--on-clip); } svg text.on-csls { fill: var(--on-csls); }
svg text.on-ranker { fill: var(--good-ink); }
svg .clip { fill: var(--clip); } svg .csls { fill: var(--csls); } svg .ranker { fill: var(--good); }
svg .rose { fill: var(--good); } svg .fell { fill: var(--bad); } svg .stayed { fill: var(--clip); }
svg .rule { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--quiet); stroke-width: 1; }
svg .ceiling { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 2 3; }
svg .mark-line { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 4 3; }
svg .loss, svg .val0 { fill: var(--good); stroke: var(--good); } svg .val1 { fill: var(--csls); stroke: var(--csls); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .line.val1 { stroke-dasharray: 6 3; }
.query { padding: 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.query + .query { margin-top: 1rem; }
.query > header { display: flex; flex-wrap: wrap; gap: 0.4rem 1rem; justify-content: space-between; }
.query > header h3 { flex: 1 1 26rem; max-width: 52rem; }
.query > header p { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.3rem 0.7rem; font-size: 0.85rem; }
.pill { padding: 0.1rem 0.6rem; border-radius: 1rem; font-weight: 600; white-space: nowrap; }
.pill.up { background: var(--good-wash); color: var(--good); }
.pill.down { background: var(--bad-wash); color: var(--bad); }
.id { color: var(--quiet); font-size: 0.8rem; }
.body { display: flex; flex-wrap: wrap; gap: 1.1rem; margin-top: 0.9rem; }
.asked { margin: 0; flex: 0 0 160px; }
.lists { flex: 1 1 17rem; display: grid; gap: 1.1rem 1.8rem; min-width: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
ol { list-style: none; margin: 0; padding: 0; }
.pictures ol { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 0.55rem; }
.pictures li { min-width: 0; }
img { display: block; max-width: 100%; background: var(--tile); }
.pictures img, .gap { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; border-radius: 6px; }
.asked img { width: auto; height: auto; border-radius: 6px; }
.asked .gap { width: 160px; }
.gap {
  display: flex; align-items: center; justify-content: center; text-align: center; overflow: hidden; padding: 0.35rem;
  background: repeating-linear-gradient(135deg, var(--tile) 0 6px, transparent 6px 12px) var(--card);
  border: 1px dashed var(--clip); color: var(--ink); font-size: 0.72rem; line-height: 1.25;
}
.gap span { background: var(--card); border-radius: 3px; padding: 0.05rem 0.25rem; max-height: 100%; overflow: hidden; }
.hit img, .hit .gap { outline: 3px solid var(--good); outline-offset: 1px; }
.asked img { outline: 0; }
.foot { display: flex; flex-wrap: wrap; align-items: center; gap: 0.1rem 0.35rem; }
.foot { font-size: 0.75rem; line-height: 1.3; }
.pictures .foot { margin-top: 0.4rem; }
.place, .shift { color: var(--quiet); font-variant-numeric: tabular-nums; }
.shift { white-space: nowrap; }
.mark { color: var(--good); font-weight: 700; white-space: nowrap; }
.texts li { display: grid; grid-template-columns: 4.6rem 1fr; gap: 0.2rem 0.6rem; padding: 0.45rem 0.5rem;
  border-top: 1px solid var(--line); font-size: 0.9rem; line-height: 1.4; border-left: 4px solid transparent; }
.texts li.hit { background: var(--good-wash); border-left-color: var(--good); }
.texts .foot { align-content: flex-start; padding-top: 0.15rem; }
.texts .word { display: none; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
details { border: 1px solid var(--line); border-radius: 10px; background: var(--card); padding: 0.8rem 1.1rem; }
summary { cursor: pointer; font-weight: 500; }
.groups { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.4rem 2.4rem;
  align-items: start; margin: 1.1rem 0 0.5rem; }
.settings { width: 100%; font-size: 0.85rem; }
.settings caption { caption-side: top; color: var(--ink); font-weight: 600; font-size: 0.95rem; padding: 0 0 0.4rem; }
.settings th, .settings td { text-align: left; vertical-align: top; padding: 0.25rem 0; }
.settings th, .settings td { border-top: 1px solid var(--line); }
.settings th { font-weight: 400; color: var(--quiet); padding-right: 1rem; width: 9rem; }
@media (max-width: 40rem) {
  .query, .plots figure { padding: 0.85rem; }
  .pictures ol { gap: 0.4rem; }
  .pictures .word { display: none; }
  .figures th, .figures td { padding: 0.45rem 0.5rem; }
}
@media print { .query, .plots figure { break-inside: avoid; } nav { display: none; } }
"""
