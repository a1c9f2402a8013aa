"""Lets only requests with a token pass."""

from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from service.runtime.tokens import Denials, Tokens, TooManyDenied


def requiring(tokens: Tokens, denials: Denials) -> Any:
    """Make the middleware that lets only requests with a token pass, and those that act only with an operator's."""

    @web.middleware
    async def check_token(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        role = tokens.role(given.strip()) if scheme.lower() == "bearer" else None
        if role is None:
            if given:
                try:
                    await denials.deny(address=request.remote, method=request.method, path=request.path)
                except TooManyDenied:
                    raise web.HTTPTooManyRequests(text="too many requests with a wrong token") from None
            raise web.HTTPUnauthorized(
                text="the header Authorization: Bearer, with the token, is needed",
                headers={"WWW-Authenticate": 'Bearer realm="admin"'},
            )
        if role == "viewer" and request.method not in ("GET", "HEAD"):
            raise web.HTTPForbidden(text="the token of a viewer can read, and not act")
        return await handler(request)

    return check_token
