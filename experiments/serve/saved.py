"""The answer to one search as a page of one file, to be passed on: pictures inlined, everything else escaped."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from experiments.report.gallery import Picture, own_files, thumbnails
from experiments.results.text import visible
from experiments.use.searcher import Answer, Hit, Searcher
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.files import replacing

SIDE, QUALITY = 320, 80


def write_page(
    path: Path,
    searcher: Searcher,
    answer: Answer,
    *,
    text: str | None = None,
    image: Path | None = None,
    data: EmbeddingSet | None = None,
) -> None:
    """Write an answer as HTML, whole or not at all.

    Parameters
    ----------
    path : Path
    searcher : Searcher
    answer : Answer
    text, image
        What asked.
    data : EmbeddingSet or None
        The set that the corpus was made from. Pictures are those that `own_files` lets pass; none without a set, since
        an index that somebody else made may name any file of this machine.

    Raises
    ------
    UserError
        If the file can't be written.
    """
    page = render(searcher, answer, text, image, data)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def render(searcher: Searcher, answer: Answer, text: str | None, image: Path | None, data: EmbeddingSet | None) -> str:
    """Return the page of an answer; parameters as those of `write_page`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    # Control characters are written out: what turns the direction of text around it would act without being seen.
    environment = Environment(
        loader=PackageLoader("experiments.serve", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    picture = _pictures(data) if searcher.item == "path" else None
    style = (files("experiments.serve") / "page" / "style.css").read_text(encoding="utf-8")
    lists = [("ranker", answer.hits), ("clip", answer.clip)]
    shown = {name: [(hit, None if picture is None else picture(hit)) for hit in hits] for name, hits in lists}
    return environment.get_template("saved.html.j2").render(
        style=Markup(style),  # our own file
        text=text,
        asking=None if image is None else thumbnails(SIDE, QUALITY, lambda path: Path(path))(str(image)),
        image_name=None if image is None else image.name,
        run=Path(searcher.name).name,
        scorer=searcher.index.stack.scorer.label,
        size=len(searcher),
        answer=answer,
        shown=shown,
        moved=sum(hit.rank != hit.clip_rank for hit in answer.hits),
        pictures=searcher.item == "path",
        without=searcher.item == "path" and not any(found for one in shown.values() for _, found in one),
    )


def _pictures(data: EmbeddingSet | None) -> Callable[[Hit], Picture | None]:
    """Return a function from a hit to its picture, None where there is none or it may not be shown."""
    if data is None:
        return lambda hit: None
    rows = {name: row for row, name in enumerate(data.images["image_id"].tolist())}
    known: dict[str, Any] = {}

    def picture(hit: Hit) -> Picture | None:
        row = rows.get(hit.id)
        if row is None:
            return None
        split, path = data.images["split"].iloc[row], data.images["path"].iloc[row]
        if split not in known:
            known[split] = thumbnails(SIDE, QUALITY, own_files(data, split))
        return known[split](path)

    return picture
