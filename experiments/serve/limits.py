"""How much one client may ask, and how much is read of what it sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

MEGABYTE = 2**20
MOST_CLIENTS = 4_096


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes
    ----------
    body : int
        Bytes of a request, an uploaded image included.
    text : int
        Characters of a caption.
    k, depth : int
    rate : float
        Searches a second of each client, on average; 0 for any number.
    waiting : int
        Searches that are worked on or wait.
    seconds : float
        Until a body must have arrived, and until a search is given up.
    """

    body: int = 10 * MEGABYTE
    text: int = 1_000
    k: int = 100
    depth: int = 1_000
    rate: float = 20.0
    waiting: int = 64
    seconds: float = 30.0


@dataclass
class TokenBuckets:
    """A bucket of tokens for each client: a search takes one, and `rate` of them come back a second.

    Two seconds' worth may be saved up, so that typing quickly is no offence.
    """

    rate: float
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, tuple[float, float]] = field(default_factory=dict)  # tokens, and when they were counted

    @property
    def burst(self) -> float:
        """Tokens of a full bucket."""
        return max(1.0, 2 * self.rate)

    def wait(self, client: str) -> float:
        """Take a token and return 0, or return after how many seconds there will be one."""
        if not self.rate:
            return 0.0
        now = self.clock()
        tokens, counted = self._known.get(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - counted) * self.rate)
        if len(self._known) >= MOST_CLIENTS:  # whose bucket is full again is as good as unknown
            full = self.burst / self.rate
            self._known = {name: known for name, known in self._known.items() if now - known[1] < full}
        if len(self._known) >= MOST_CLIENTS and client not in self._known:
            del self._known[next(iter(self._known))]
        if tokens < 1:
            self._known[client] = (tokens, now)
            return (1 - tokens) / self.rate
        self._known[client] = (tokens - 1, now)
        return 0.0
