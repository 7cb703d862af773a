"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ROUTES = ("/", "/search", "/image", "/runs", "/health", "/metrics", "/openapi.json", "/page")


class Metrics:
    """Counters of one server; a registry of its own, so that two in one process don't meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rank_xmodal_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "rank_xmodal_request_seconds", "From a request to its answer.", ["route"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.encode = Histogram(
            "rank_xmodal_encode_seconds", "Encoding the queries of a batch.", buckets=_SECONDS, registry=self.registry
        )
        self.search = Histogram(
            "rank_xmodal_search_seconds", "First stage and ranking of a batch.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.batch = Histogram(
            "rank_xmodal_batch_size", "Queries that were answered together.", buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )  # fmt: skip
        self.reloads = Counter(
            "rank_xmodal_index_reloads", "Times that an index was opened again, as it had changed.",
            registry=self.registry,
        )  # fmt: skip

    def gauge(self, name: str, told: str, value: Callable[[], float]) -> None:
        """Have a value asked for whenever the metrics are."""
        Gauge(f"rank_xmodal_{name}", told, registry=self.registry).set_function(value)

    def finished(self, path: str, status: int, seconds: float) -> None:
        """Count a request; paths that don't exist are counted as one, or anybody could add a thousand series."""
        first = "/" + path.split("/")[1] if path.startswith("/") else ""
        route = first if first in ROUTES else "other"
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' format."""
        return generate_latest(self.registry)
