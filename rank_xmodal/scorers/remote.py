"""A model behind a rerank endpoint over HTTP: requests of Jina's and Cohere's form, images as vLLM takes them."""

from __future__ import annotations

import base64
import os
import re
import warnings
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.endpoint import Endpoint, EndpointError
from rank_xmodal.scorers.first_few import above_the_rest, first_few
from rank_xmodal.scorers.settings import ScorerSettings

# How the files begin that are sent, and what they are called then. Of a set that somebody else made a path may name any
# file of this machine, and what is no image must not leave it.
_KINDS = {
    "png": rb"\x89PNG\r\n\x1a\n",
    "jpeg": rb"\xff\xd8\xff",
    "gif": rb"GIF8[79]a",
    "webp": rb"RIFF....WEBP",
    "bmp": rb"BM.{4}\0{4}",
}
_BEGINNING = 16  # bytes that tell; what they tell to be another file is not read
_IN_A_ROW = 5  # lists that fail before the rest is not asked for: an evaluation has thousands


class RemoteSettings(ScorerSettings):
    """Which endpoint, and how long it is waited for."""

    url: str = Field("", description="of the endpoint, such as http://127.0.0.1:8000/v1/rerank")
    model: str = Field("", description="what the endpoint calls its model")
    top: int = Field(5, ge=1, description="first candidates of a list that are scored; the others stay below them")
    batch_size: int = Field(16, ge=1, description="documents a request")
    timeout: float = Field(30.0, gt=0, le=3_600, description="seconds for a request")
    retries: int = Field(2, ge=0, le=10, description="further attempts, the first after half a second, then twice that")
    key_from: str = Field("RERANK_API_KEY", description="environment variable that holds the key, if there is one")

    # Of the whole, for then the message shows no value: it may hold what was meant to be kept secret.
    @model_validator(mode="after")
    def _tells_no_secret(self) -> Self:
        if self.url and not _is_http(self.url):
            raise ValueError("url: must be an address, http://... or https://...")
        if "@" in urlsplit(self.url).netloc:
            raise ValueError("url: holds a name or password, and settings are kept. Put the key where key_from says")
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_from):
            raise ValueError(
                "key_from: must be the name of an environment variable in capitals, such as RERANK_API_KEY, not the "
                "key itself"
            )
        return self


class Remote(Scorer):
    """``score = the endpoint's relevance_score``, of the first few candidates of each list; the others follow.

    Captions are sent as text, images as data: URLs. A list that the endpoint fails for keeps the first stage's order
    and scores. There is nothing to fit.
    """

    name = "remote"
    label = "rerank endpoint"
    paper = "whatever model the endpoint serves"
    Settings: ClassVar[type[RemoteSettings]] = RemoteSettings
    settings: RemoteSettings

    @property
    def needs(self) -> Needs:
        """The first stage's score, captions and images."""
        return Needs(base=True, content=True)

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return the endpoint's scores of the first few, and below them the others, (B, L) float32.

        Warns once, at the end, of how many lists it failed for.

        Raises
        ------
        UserError
            If no url is set, the key can't be sent, or an image can't be read.
        """
        assert batch.content is not None
        assert batch.query_row is not None
        assert batch.rows is not None
        content, endpoint = batch.content, self._endpoint()
        by_image = content.direction == "i2t"
        queries, rows = batch.query_row.tolist(), batch.rows.tolist()
        scores: list[list[float] | None] = []
        in_a_row, why = 0, ""
        for query, row, places in zip(queries, rows, first_few(batch, self.settings.top), strict=True):
            found = None
            if in_a_row < _IN_A_ROW:
                asked = _part(content.queries[query], by_image)
                documents = [_part(content.candidates[row[place]], not by_image) for place in places]
                try:
                    found = self._list(endpoint, asked, documents)
                except EndpointError as error:
                    why = why or str(error)
            in_a_row = 0 if found is not None else in_a_row + 1
            scores.append(found)
        failed = scores.count(None)
        if failed:
            given_up = f"; after {_IN_A_ROW} in a row the rest was not asked for" if in_a_row > _IN_A_ROW else ""
            warnings.warn(
                f"scorer=remote: {failed:,} of {len(scores):,} lists keep the first stage's order: {self.settings.url} "
                f"gave {why}{given_up}.",
                stacklevel=2,
            )
        return above_the_rest(batch, scores)

    def _list(self, endpoint: Endpoint, query: Any, documents: list[Any]) -> list[float]:
        size = self.settings.batch_size
        parts = [documents[start : start + size] for start in range(0, len(documents), size)]
        return [score for part in parts for score in endpoint.scores(query, part)]

    def _endpoint(self) -> Endpoint:
        chosen = self.settings
        if not chosen.url:
            raise UserError(
                "scorer=remote: url is empty. Name a rerank endpoint, such as url=http://127.0.0.1:8000/v1/rerank."
            )
        key = os.environ.get(chosen.key_from, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"scorer=remote: the key in {chosen.key_from} holds what no header can. Set it again.")
        return Endpoint(chosen.url, chosen.model, chosen.timeout, chosen.retries, key)


def _is_http(url: str) -> bool:
    try:
        found = urlsplit(url)
        # What can't be printed would reach the terminal in a warning.
        return found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0 and url.isprintable()
    except ValueError:  # a port that is no number, half a bracket
        return False


def _part(item: str, image: bool) -> Any:
    """Return a caption, or an image in the form of vLLM's multimodal content."""
    if not image:
        return item
    return {"content": [{"type": "image_url", "image_url": {"url": _data_url(item)}}]}


def _data_url(path: str) -> str:
    """Return an image file as a data: URL."""
    file = Path(path)
    if not path or not file.is_file():
        raise UserError(f"{path or 'an image without a path'}: no such image. Bring the file again.")
    with file.open("rb") as handle:
        found = handle.read(_BEGINNING)
        kind = next((kind for kind, begins in _KINDS.items() if re.match(begins, found, re.DOTALL)), None)
        if kind is None:
            raise UserError(f"{path}: is no image of these kinds, the only ones sent: {', '.join(_KINDS)}. Convert it.")
        found += handle.read()
    return f"data:image/{kind};base64,{base64.b64encode(found).decode()}"
