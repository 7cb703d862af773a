"""The server's routes."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from experiments.serve import metrics as counted
from experiments.serve.asking import SearchRequest, decoded, read_search
from experiments.serve.batching import Answered, Asked, Batcher
from experiments.serve.corpora import Corpus
from experiments.serve.guard import Guard
from experiments.serve.limits import Limits, TokenBuckets
from experiments.serve.metrics import Metrics
from experiments.serve.thumbnails import Thumbnails
from experiments.use.searcher import Hit, Searcher
from rank_xmodal.errors import UserError

_PAGE = {"index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
_DECODED_AT_ONCE = 2  # images: one of 89 million pixels takes 0.5 GB while it is read
_UPLOADS_AT_ONCE = 4  # that are decoded and wait for their turn
_ASKS = {"t2i": "text", "i2t": "image"}


class FoundHit(BaseModel):
    """A hit, of the ranker's order or of CLIP's."""

    rank: int | None
    clip_rank: int | None
    row: int
    id: str | int | float
    path: str | None = None
    text: str | None = None
    image: str | None = None
    score: float | None
    cosine: float | None
    probability: float | None


class Timings(BaseModel):
    """Milliseconds until the turn came, and of the batch; how many were in it."""

    waited_ms: float
    encode_ms: float
    search_ms: float
    batch: int


class SearchResponse(BaseModel):
    """What was found: `hits` in the ranker's order, `clip` in that of CLIP's cosine."""

    direction: str
    run: str
    found: int
    hits: list[FoundHit]
    clip: list[FoundHit]
    timings: Timings


class Failure(BaseModel):
    """What went wrong, and how to mend it."""

    error: str


def make_app(
    corpora: Mapping[str, Corpus], limits: Limits | None = None, *, hosts: Iterable[str] = (), threads: int = 1
) -> ASGIApp:
    """Return the server of some corpora, by direction, as an ASGI app.

    Parameters
    ----------
    corpora : mapping of "t2i", "i2t" to Corpus
    limits : Limits or None
    hosts : iterable of str
        Names under which it may be asked beside localhost.
    threads : int
        Of torch.
    """
    limits, metrics = limits or Limits(), Metrics()
    batcher = Batcher(corpora, metrics, threads)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await anyio.to_thread.run_sync(batcher.stop)

    # FastAPI's own pages of documentation load scripts from another host.
    app = FastAPI(
        title="rank-xmodal", version=version("rank-xmodal"), lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Search by a caption or an image: CLIP's top candidates, put in order by a trained ranker.",
    )  # fmt: skip
    _say_errors(app)
    _search_route(app, corpora, batcher, limits, metrics)
    _facts_routes(app, corpora, batcher, metrics, limits)
    _image_route(app, corpora)
    _page_routes(app)
    return Guard(app, metrics, limits.body, hosts)


def _say_errors(app: FastAPI) -> None:
    """Have every error told as {"error": ...}."""

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = error.detail
        if error.status_code == 404 and said == "Not Found":
            said = f"{request.url.path}: there is no such page. /openapi.json tells what there is."
        return JSONResponse({"error": said}, error.status_code, error.headers)

    async def other(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "something went wrong on the server; its log tells what."}, 500)

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, other)


def _search_route(
    app: FastAPI, corpora: Mapping[str, Corpus], batcher: Batcher, limits: Limits, metrics: Metrics
) -> None:
    buckets, inside = TokenBuckets(limits.rate), set[object]()
    uploads, decoding = anyio.CapacityLimiter(_UPLOADS_AT_ONCE), anyio.CapacityLimiter(_DECODED_AT_ONCE)
    metrics.gauge("queue", "Searches that wait for their turn.", lambda: float(batcher.waiting))
    metrics.gauge("searches", "Searches that are worked on or wait.", lambda: float(len(inside)))

    async def answered(body: SearchRequest, image: UploadFile | None) -> tuple[Searcher, Answered]:
        direction = "t2i" if image is None else "i2t"
        if direction not in corpora:
            other = next(iter(corpora))
            raise HTTPException(
                400,
                f"{_ASKS[direction]}: what is served here is {other} alone, asked by {_ASKS[other]}. Start the server "
                f"with a run of the direction {direction}, too.",
            )
        searcher = corpora[direction].searcher
        try:
            searcher.check_where(body.where)
        except UserError as error:  # any later one is not the client's fault, and names files of this machine
            raise HTTPException(400, str(error)) from error
        if image is None:
            return searcher, await batcher.ask(Asked(direction, body.text, body.k, body.depth, body.where))
        async with uploads:
            picture = await anyio.to_thread.run_sync(decoded, image, limiter=decoding)
            return searcher, await batcher.ask(Asked(direction, picture, body.k, body.depth, body.where))

    described = {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": SearchRequest.model_json_schema()},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {
                            "image": {"type": "string", "format": "binary"},
                            "k": {"type": "integer"},
                            "depth": {"type": "integer"},
                            "where": {"type": "string", "description": "As in JSON."},
                        },
                    }
                },
            },
        }
    }

    @app.post(
        "/search", response_model=SearchResponse, openapi_extra=described,
        responses={status: {"model": Failure} for status in (400, 403, 408, 413, 415, 429, 503)},
    )  # fmt: skip
    async def search(request: Request) -> Response:
        """Search by a caption (JSON) or by an image (a form)."""
        client = request.client.host if request.client else ""
        if (seconds := buckets.wait(client)) > 0:
            after = str(math.ceil(seconds))
            said = f"more than {limits.rate:g} searches a second. Wait {after} s."
            raise HTTPException(429, said, {"retry-after": after})
        if len(inside) >= limits.waiting:
            raise HTTPException(503, f"{limits.waiting} searches are waiting. Try again.", {"retry-after": "1"})
        token = object()
        inside.add(token)
        image = None
        try:
            body, image = await read_search(request, limits)
            with anyio.fail_after(limits.seconds):
                searcher, told = await answered(body, image)
        except TimeoutError as error:
            said = f"no answer within {limits.seconds:g} s: the server is busy. Try again."
            raise HTTPException(503, said, {"retry-after": "5"}) from error
        finally:
            inside.discard(token)
            if image is not None:
                await image.close()
        return JSONResponse(_told(searcher, told))


def _told(searcher: Searcher, told: Answered) -> dict[str, Any]:
    answer = told.answer
    return {
        "direction": searcher.direction,
        "run": Path(searcher.name).name,
        "found": answer.found,
        "hits": [_hit(hit, searcher) for hit in answer.hits],
        "clip": [_hit(hit, searcher) for hit in answer.clip],
        "timings": {
            "waited_ms": round(1_000 * told.waited, 2),
            "encode_ms": round(1_000 * answer.encode_seconds, 2),
            "search_ms": round(1_000 * answer.search_seconds, 2),
            "batch": told.batch,
        },
    }


def _hit(hit: Hit, searcher: Searcher) -> dict[str, Any]:
    image = {"image": f"/image/{hit.row}"} if searcher.item == "path" and hit.item else {}
    return {
        "rank": hit.rank,
        "clip_rank": hit.clip_rank,
        "row": hit.row,
        "id": hit.id if _in_json(hit.id) else str(hit.id),
        searcher.item: hit.item,
        **image,
        **{name: _finite(getattr(hit, name)) for name in ("score", "cosine", "probability")},
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _in_json(value: Any) -> bool:
    """Say whether JSON has a word for a value of a column; it has none for dates, bytes and NaN."""
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _facts_routes(
    app: FastAPI, corpora: Mapping[str, Corpus], batcher: Batcher, metrics: Metrics, limits: Limits
) -> None:
    for direction, corpus in corpora.items():
        metrics.gauge(f"candidates_{direction}", "Candidates of the corpus.", corpus.__len__)
    choices: dict[str, tuple[Searcher, dict[str, list[Any]]]] = {}

    def choices_of(direction: str, searcher: Searcher) -> dict[str, list[Any]]:
        if direction not in choices or choices[direction][0] is not searcher:
            named = {name: sorted(filter(_in_json, values)) for name, values in searcher.choices().items()}
            choices[direction] = (searcher, {name: values for name, values in named.items() if len(values) > 1})
        return choices[direction][1]

    @app.get("/runs")
    def runs() -> dict[str, Any]:
        """Tell what is served: of each direction the run, its corpus, and the columns that can be filtered by."""
        served = []
        for direction, corpus in corpora.items():
            searcher = corpus.searcher
            scorer = searcher.index.stack.scorer
            served.append(
                {
                    "direction": direction,
                    "asks": _ASKS[direction],
                    "run": Path(searcher.name).name,
                    "scorer": scorer.label,
                    "candidates": len(searcher),
                    "calibrated": searcher.index.calibration is not None,
                    "columns": searcher.schema.names,
                    "choices": choices_of(direction, searcher),
                }
            )
        return {
            "runs": served,
            "most": {name: getattr(limits, name) for name in ("k", "text", "depth", "body")},
        }

    @app.get("/health", responses={503: {"model": Failure}})
    async def health() -> dict[str, Any]:
        """Say whether searches are answered."""
        if not batcher.alive:
            raise HTTPException(503, "searches are not answered: the thread that computes has ended. Start again.")
        return {"status": "ok", "version": app.version, "directions": list(corpora)}

    @app.get("/metrics", response_class=Response)
    def prometheus() -> Response:
        """Tell counters and times, for Prometheus."""
        return Response(metrics.text(), media_type=counted.CONTENT_TYPE)


def _image_route(app: FastAPI, corpora: Mapping[str, Corpus]) -> None:
    thumbnails, decoding = Thumbnails(), anyio.CapacityLimiter(_DECODED_AT_ONCE)

    @app.get(
        "/image/{row}", response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 304: {}, 404: {"model": Failure}},
    )  # fmt: skip
    async def image(row: str, request: Request) -> Response:
        """Return a small picture of a candidate's image."""
        corpus = corpora.get("t2i")
        if corpus is None or not re.fullmatch("[0-9]{1,12}", row):
            raise HTTPException(404, f"image {row[:40]!r}: must be the row of an image that is served.")
        file = corpus.searcher.image_file(int(row))
        headers = {"cache-control": "no-cache"}  # kept, but asked for again each time: a row's file may change
        etag = thumbnails.etag(file) if file else None
        if etag and request.headers.get("if-none-match", "") == f'"{etag}"':
            return Response(status_code=304, headers={**headers, "etag": f'"{etag}"'})
        found = await anyio.to_thread.run_sync(thumbnails.get, file, limiter=decoding) if etag else None
        if found is None:
            raise HTTPException(404, f"image {row}: there is no such row, or its file is gone or damaged.")
        return Response(found.jpeg, media_type="image/jpeg", headers={**headers, "etag": f'"{found.etag}"'})


def _page_routes(app: FastAPI) -> None:
    folder = files("experiments.serve") / "page"
    known = {name: (folder / name).read_bytes() for name in _PAGE}  # no path of a client leads to a file

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(known["index.html"], media_type=_PAGE["index.html"], headers={"cache-control": "no-cache"})

    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        if name not in known:
            raise HTTPException(404, "Not Found")
        return Response(known[name], media_type=_PAGE[name], headers={"cache-control": "no-cache"})
