"""Checks the tokens of requests. A wrong one is counted, logged and answered slowly."""

import asyncio
import hmac
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.runtime import metrics
from service.runtime.loop import Throttle

DENIED_SECONDS = 1.0
"""How long the answer to a wrong token takes, in seconds."""
MOST_DENIED = 20
"""So many requests with a wrong token may wait for their answer; others are answered at once."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of /admin/. That of a viewer can read, that of an operator can act as well."""

    operator: str | None
    viewer: str | None

    def role(self, given: str) -> Literal["operator", "viewer"] | None:
        """Return whose token it is. Takes the same time whatever is given."""
        found: Literal["operator", "viewer"] | None = None
        shown = given.encode("utf-8", "surrogateescape")
        if self.viewer is not None and hmac.compare_digest(shown, self.viewer.encode()):
            found = "viewer"
        if self.operator is not None and hmac.compare_digest(shown, self.operator.encode()):
            found = "operator"
        return found


class _Denials:
    """Counts, logs and slows down requests with a wrong token."""

    def __init__(self) -> None:
        self._waiting = 0
        self._throttle = Throttle()

    async def deny(self, request: web.Request) -> None:
        metrics.HTTP_REJECTED.labels("token").inc()
        if self._throttle.due():
            _log.warning("token_denied", address=request.remote, method=request.method, path=request.path)
        if self._waiting >= MOST_DENIED:
            raise web.HTTPTooManyRequests(text="too many requests with a wrong token")
        self._waiting += 1
        try:
            await asyncio.sleep(DENIED_SECONDS)
        finally:
            self._waiting -= 1


def requiring(tokens: Tokens) -> Any:
    """Make the middleware that lets only requests with a token pass, and those that act only with an operator's."""
    denials = _Denials()

    @web.middleware
    async def check_token(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        role = tokens.role(given.strip()) if scheme.lower() == "bearer" else None
        if role is None:
            if given:
                await denials.deny(request)
            raise web.HTTPUnauthorized(
                text="the header Authorization: Bearer, with the token, is needed",
                headers={"WWW-Authenticate": 'Bearer realm="admin"'},
            )
        if role == "viewer" and request.method not in ("GET", "HEAD"):
            raise web.HTTPForbidden(text="the token of a viewer can read, and not act")
        return await handler(request)

    return check_token
