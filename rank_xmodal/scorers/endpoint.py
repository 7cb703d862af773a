"""Asking a rerank endpoint: one request and its retries, and what counts as an answer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from time import monotonic, sleep
from typing import Any

_WAIT = 0.5  # seconds before the first retry; each further one waits twice as long
_AGAIN = (408, 425, 429)  # refusals that may pass, beside a server's own failures from 500 on
_BLOCK = 65_536
_ROOM = 1 << 20  # bytes of an answer, beside the documents: some servers send them back
_LARGEST = 1e30  # float32 must hold a score and what stands below it


class EndpointError(Exception):
    """An endpoint gave no answer that could be used. Says why, in words of ours: the endpoint's may be anything."""


class _Passing(EndpointError):
    """One that another attempt may not meet."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow nobody: the key would be sent along."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """A rerank endpoint.

    Attributes
    ----------
    url, model : str
        An empty model is not named.
    timeout : float
        Seconds for a request.
    retries : int
    key : str
        Sent as a bearer token, unless empty; never shown.
    """

    url: str
    model: str
    timeout: float
    retries: int
    key: str = field(repr=False)

    def scores(self, query: Any, documents: list[Any]) -> list[float]:
        """Return the relevance of documents to a query, in their order.

        Raises
        ------
        EndpointError
            If it refuses, or fails at every attempt: no answer, a late one, or one that is none.
        """
        asked = {"model": self.model} if self.model else {}
        body = json.dumps({**asked, "query": query, "documents": documents}).encode()
        for attempt in range(self.retries + 1):
            try:
                return _read(self._post(body), len(documents))
            except _Passing:
                if attempt == self.retries:
                    raise
            sleep(_WAIT * 2**attempt)
        raise AssertionError  # the last attempt returned or raised

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        end, most = monotonic() + self.timeout, _ROOM + 2 * len(body)
        answer = bytearray()
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                while part := response.read1(_BLOCK):
                    answer += part
                    if len(answer) > most:
                        raise _Passing(f"an answer of more than {most:,} bytes")
                    if monotonic() > end:  # one that trickles in never times out by itself
                        raise TimeoutError
        except urllib.error.HTTPError as error:
            error.close()
            kind = _Passing if error.code >= 500 or error.code in _AGAIN else EndpointError
            raise kind(f"status {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, TimeoutError):
                raise _Passing(f"no answer within {self.timeout:g} s") from None
            raise _Passing(f"no answer, {type(reason).__name__}") from None
        return bytes(answer)


def _read(answer: bytes, count: int) -> list[float]:
    """Return the scores in an answer; each document has to have one."""
    try:
        told = json.loads(answer)
    except (ValueError, RecursionError):
        raise _Passing("an answer that is not JSON") from None
    results = told.get("results") if isinstance(told, dict) else None
    if not isinstance(results, list) or len(results) != count:
        found = f"{len(results):,}" if isinstance(results, list) else "no list of"
        raise _Passing(f"an answer with {found} results for {count} documents")
    scores: dict[int, float] = {}
    for result in results:
        told = result if isinstance(result, dict) else {}
        place, score = told.get("index"), told.get("relevance_score")
        if type(place) is not int or not 0 <= place < count or place in scores:
            raise _Passing("an answer whose indices are not those of the documents, each once")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) <= _LARGEST:  # nor NaN
            raise _Passing("an answer with a relevance_score that is no finite number")
        scores[place] = float(score)
    return [scores[place] for place in range(count)]
