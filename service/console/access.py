"""Lets only persons use the console, and only pages of the console change something. Adds the headers of security."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.console.session import COOKIE, SESSION_SECONDS, Person, Sessions, TrustedProxy
from service.runtime import metrics
from service.runtime.loop import Throttle
from service.runtime.tokens import Denials, Tokens

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

OPEN: Final = ("/console/login", "/console/static/")
"""What needs no session."""

FORM_SECONDS: Final = 10.0
"""How long the fields of a form may take to arrive: connections are few, and the probes need one."""

MOST_FIELDS: Final = 50

PERSON: Final = web.RequestKey("person", Person)
"""Who sends a request."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """Decides who may use the console."""

    tokens: Tokens
    sessions: Sessions
    denials: Denials
    proxy: TrustedProxy | None = None

    def person(self, request: web.Request) -> Person | None:
        """Returns who sends a request."""
        if self.proxy is not None and (person := self.proxy.person(request.remote, request.headers)):
            return person
        return self.sessions.person(request.cookies.get(COOKIE, ""))

    async def log_in(self, request: web.Request, who: str, token: str) -> Person | None:
        """Returns the person of a token. A wrong one is answered slowly; raises TooManyDenied."""
        role = self.tokens.role(token)
        if role is None:
            await self.denials.deny(address=request.remote, method=request.method, path=request.path)
            return None
        _log.info("console_login", who=who, role=role, address=request.remote)
        return Person(who, role)

    def set_cookie(self, request: web.Request, response: web.Response, person: Person) -> None:
        """Begin a session."""
        response.set_cookie(
            COOKIE,
            self.sessions.cookie(person),
            max_age=SESSION_SECONDS,
            path="/console",
            httponly=True,
            samesite="Strict",
            secure=_scheme(request) == "https",
        )


def _scheme(request: web.Request) -> str:
    """Returns the scheme that the person's browser used, as far as a proxy states it. A pod itself speaks HTTP only."""
    return request.headers.get("X-Forwarded-Proto", request.scheme).partition(",")[0].strip().lower()


def is_from_here(request: web.Request) -> bool:
    """Returns whether a page of this console sent the request, as the browser states it."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    try:
        origin = urlsplit(request.headers.get("Origin", ""))
    except ValueError:
        return False
    hosts = {request.headers.get("Host", ""), request.headers.get("X-Forwarded-Host", "")} - {""}
    return origin.scheme in ("http", "https") and origin.netloc in hosts


async def read_form(request: web.Request) -> dict[str, str]:
    """Returns the fields of a form, as a browser sends them from our pages. Raises HTTPException for anything else.

    Nobody has said yet who sends it, so it must not wait for long, nor use another decoder or a file.
    """
    if not request.can_read_body:
        return {}
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType
    try:
        async with asyncio.timeout(FORM_SECONDS):
            text = (await request.read()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except ValueError:
        raise web.HTTPBadRequest(reason="This is not a form of the console.") from None


def controlled(access: Access, forbidden: Callable[[web.Request, str], Awaitable[web.Response]]) -> Any:
    """Make the middleware. `forbidden` renders the page that says why a request is rejected."""
    throttle = Throttle()

    @web.middleware
    async def control(request: web.Request, handler: Handler) -> web.StreamResponse:
        person = access.person(request)
        if person is not None:
            request[PERSON] = person
        if request.method not in ("GET", "HEAD") and not is_from_here(request):
            metrics.HTTP_REJECTED.labels("origin").inc()
            if throttle.due():
                _log.warning("origin_rejected", address=request.remote, path=request.path)
            return await forbidden(request, "The request did not come from a page of this console.")
        if person is None and not request.path.startswith(OPEN):
            if request.headers.get("HX-Request"):  # a part of a page: let the browser load the whole one
                return web.Response(status=401, headers={"HX-Refresh": "true"})
            target = request.rel_url.raw_path_qs if request.method in ("GET", "HEAD") else "/console/"
            raise web.HTTPSeeOther(f"/console/login?next={quote(target, safe='')}")
        return await handler(request)

    return control


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of security to a response."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
