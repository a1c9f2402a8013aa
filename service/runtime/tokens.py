"""Compares the tokens of requests. A wrong one is counted, logged and answered slowly."""

import asyncio
import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

import structlog

from service.runtime import metrics
from service.runtime.loop import Throttle

DENIED_SECONDS = 1.0
"""How long the answer to a wrong token takes, in seconds."""
MOST_DENIED = 20
"""So many requests with a wrong token may wait for their answer; others are answered at once."""

TokenRole = Literal["operator", "viewer"]
"""A viewer can read, an operator can act as well."""

_log = structlog.get_logger(__name__)


class TooManyDenied(Exception):
    """So many requests with a wrong token wait for their answer that this one does not."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of /admin/ and of the console."""

    operator: str | None
    viewer: str | None

    def role(self, given: str) -> TokenRole | None:
        """Return whose token it is. Takes the same time whatever is given."""
        found: TokenRole | None = None
        shown = given.encode("utf-8", "surrogateescape")
        if self.viewer is not None and hmac.compare_digest(shown, self.viewer.encode()):
            found = "viewer"
        if self.operator is not None and hmac.compare_digest(shown, self.operator.encode()):
            found = "operator"
        return found

    def key(self, purpose: str) -> bytes:
        """Derive a secret key, which all pods with these tokens share and which changes with each of them."""
        secret = b"\0".join(hashlib.sha256((each or "").encode()).digest() for each in (self.operator, self.viewer))
        return hmac.digest(secret, purpose.encode(), "sha256")


class Denials:
    """Counts, logs and slows down requests with a wrong token."""

    def __init__(self) -> None:
        self._waiting = 0
        self._throttle = Throttle()

    async def deny(self, *, address: str | None, method: str, path: str) -> None:
        """Record a request with a wrong token, and wait. Raises TooManyDenied."""
        metrics.HTTP_REJECTED.labels("token").inc()
        if self._throttle.due():
            _log.warning("token_denied", address=address, method=method, path=path)
        if self._waiting >= MOST_DENIED:
            raise TooManyDenied
        self._waiting += 1
        try:
            await asyncio.sleep(DENIED_SECONDS)
        finally:
            self._waiting -= 1
