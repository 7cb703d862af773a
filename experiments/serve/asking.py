"""What a client asks: read from JSON, or from a form with an image, and checked."""

from __future__ import annotations

import asyncio
import json
import tempfile
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from data_prep.images import REMEDY, read_image
from experiments.serve.limits import Limits
from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.retrieval.gallery import DEPTH

_JSON_BYTES = 64 * 1024
_VALUES = 100  # of a filter's column
Value = StrictStr | StrictInt | StrictFloat | StrictBool


class SearchRequest(BaseModel):
    """A query: a caption to find images for; or, in a form, an image to find captions for."""

    model_config = ConfigDict(extra="forbid")

    text: StrictStr | None = Field(None, description="A caption to find images for.")
    k: int = Field(10, ge=1, description="How many hits; at most 100.")
    depth: int = Field(DEPTH, ge=1, description="Candidates of the first stage that the ranker puts in order.")
    where: dict[str, Value | list[Value]] = Field(
        default_factory=dict, description="Columns, and the value or list of values that a hit must have."
    )


async def read_search(request: Request, limits: Limits) -> tuple[SearchRequest, UploadFile | None]:
    """Read a search from a request.

    Raises
    ------
    HTTPException
        400 of what can't be understood, 408 of a body that doesn't come, 413 of one that is too large, 415 of another
        kind of body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return await asyncio.wait_for(_from_json(request, limits), limits.seconds)
        if kind == "multipart/form-data":
            return await asyncio.wait_for(_from_form(request, limits), limits.seconds)
    except asyncio.TimeoutError as error:
        raise HTTPException(408, f"the request did not arrive within {limits.seconds:g} s.") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client has gone.") from error
    except UnicodeError as error:  # of the encoding that a form says it has, such as punycode
        raise HTTPException(400, "the form: can't be read in the charset that it names. Send UTF-8.") from error
    raise HTTPException(415, f"content-type {kind!r}: send application/json, or multipart/form-data with an image.")


async def _from_json(request: Request, limits: Limits) -> tuple[SearchRequest, None]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _JSON_BYTES:
            raise HTTPException(413, f"the JSON is larger than {_JSON_BYTES // 1024} KB. Shorten it.")
    given = _loaded(body, "the body")
    if not isinstance(given, dict):
        raise HTTPException(400, 'the body must be a JSON object, such as {"text": "two dogs on a beach"}.')
    asked = _checked(given, limits)
    if asked.text is None:
        raise HTTPException(400, "neither text nor image: send one of them.")
    if not asked.text.strip():
        raise HTTPException(400, "text is empty: say what to look for.")
    if len(asked.text) > limits.text:
        raise HTTPException(
            400, f"text has {len(asked.text):,} characters, and {limits.text:,} are the most. Shorten it."
        )
    return asked, None


async def _from_form(request: Request, limits: Limits) -> tuple[SearchRequest, UploadFile]:
    # Starlette raises HTTPException 400 itself where a form can't be parsed.
    form = await request.form(max_files=1, max_fields=8, max_part_size=_JSON_BYTES)
    try:
        given: dict[str, Any] = {}
        image = None
        for name, value in form.multi_items():
            if name == "image" and isinstance(value, UploadFile):
                image = value
            elif isinstance(value, UploadFile):
                raise HTTPException(400, f"{name!r}: the file must be called image.")
            elif name in given:
                raise HTTPException(400, f"{name!r}: is given twice.")
            else:
                given[name] = _loaded(value, name) if name == "where" else value
        if image is None:
            raise HTTPException(400, "image: the form has no file that is called so.")
        if "text" in given:
            raise HTTPException(400, "both text and image: send one of them.")
        return _checked(given, limits), image
    except HTTPException:
        await form.close()
        raise


def _loaded(written: bytes | str, what: str) -> Any:
    """Return JSON, strictly: no NaN, no half of a surrogate pair, nothing that exhausts the stack."""

    def never(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        given = json.loads(written, parse_constant=never)
        json.dumps(given, ensure_ascii=False).encode()
        return given
    except UnicodeError as error:
        raise HTTPException(400, f"{what}: holds what is no UTF-8.") from error
    except (ValueError, RecursionError) as error:
        said = str(error).splitlines()[0] if isinstance(error, ValueError) else "nested too deep"
        raise HTTPException(400, f"{what}: is no JSON ({said[:200]}).") from error


def _checked(given: dict[str, Any], limits: Limits) -> SearchRequest:
    try:
        asked = SearchRequest.model_validate(given)
    except ValidationError as error:
        raise HTTPException(400, _said(error)) from error
    for name, value, most in (("k", asked.k, limits.k), ("depth", asked.depth, limits.depth)):
        if value > most or isinstance(given.get(name), bool):
            raise HTTPException(400, f"{name}={given.get(name, value)!r:.80}: must be an integer from 1 to {most:,}.")
    for name, values in asked.where.items():
        if isinstance(values, list) and len(values) > _VALUES:
            raise HTTPException(400, f"where {name[:80]!r}: {len(values):,} values, and {_VALUES} are the most.")
    return asked


def _said(error: ValidationError) -> str:
    """Return the first of a request's errors in words."""
    first = error.errors()[0]
    name, value = str(first["loc"][0])[:80], first["input"]
    if name == "image":
        return "image: send it as a file, in a form (multipart/form-data)."
    if first["type"] == "extra_forbidden":
        return f"{name!r}: there is no such key.{did_you_mean(name, [*SearchRequest.model_fields, 'image'])}"
    if name in ("k", "depth"):
        return f"{name}={value!r:.80}: must be an integer of 1 or more."
    if name == "where":
        return "where: must be an object of columns, and of each the value or a list of values that it may have."
    return f"{name}={value!r:.80}: must be a string."


def decoded(upload: UploadFile) -> Image.Image:
    """Return an uploaded image, upright and RGB.

    Raises
    ------
    HTTPException
        400 of what is no image, damaged, or larger than is decoded.
    """
    with tempfile.NamedTemporaryFile(prefix="rank-xmodal-", suffix=".upload") as file:
        while chunk := upload.file.read(2**20):
            file.write(chunk)
        file.flush()
        try:
            return read_image(file.name)
        except UserError as error:  # its name means nothing to who sent it
            said = str(error).replace(file.name, "image")
            said = said.replace(REMEDY, "Send a JPEG, PNG or WebP file.").replace(" or delete its row", "")
            raise HTTPException(400, said) from error
