"""/admin/…: what the command line can do to pending content, batches and quarantine, over HTTP.

Everything is rejected without the token, the page and the document too. A request says what it wants in its query, or
posts one JSON object; both are bounded, and what is not known in them is rejected. An answer that is no success is a
problem (RFC 9457), its status the counterpart of the command line's exit status.
"""

import asyncio
import hmac
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

from service.http import openapi, schemas
from service.http.endpoints import ENDPOINTS, Call, Endpoint
from service.operators.errors import Conflict, Contention, InvalidRequest, NotFound, OperationError, Unavailable
from service.operators.operations import Operations

BODY_BYTES = 1024 * 1024
"""A larger body is rejected."""

BODY_SECONDS = 30
"""A body that takes longer to come is rejected."""


_log = structlog.get_logger(__name__)

_STATUS: dict[type[OperationError], int] = {
    InvalidRequest: 422,
    NotFound: 404,
    Conflict: 409,
    Contention: 409,
    Unavailable: 503,
}

PROBLEMS = {
    400: "The body is no JSON object.",
    401: "Without the token, or with a wrong one.",
    404: "Nothing such is there.",
    409: "It can't be done as things stand, or somebody is at work on it: the detail says which.",
    413: "The body is too large.",
    422: "A parameter is wrong: the errors say which.",
    503: "The database is away. What was committed before stays.",
}


# -- pending


# -- quarantine


# -- batches


def document() -> dict[str, Any]:
    """The OpenAPI document of all this."""
    return openapi.document(
        ENDPOINTS,
        title="Essay Lifecycle Service: administration",
        version="1",
        description="What the command line can do to pending content, batches and quarantine. Every request needs the "
        "header Authorization: Bearer, with the token of ELS_ADMIN_TOKEN. Every change is written into the audit "
        "(ops.operator_actions) with who and why.",
        problem=schemas.Problem,
        problems=PROBLEMS,
    )


def application(operations: Operations, token: str) -> web.Application:
    """What answers below /admin/ to who has the token."""
    app = web.Application(middlewares=[_answering_problems, _asking_for(token)])
    described = document()
    page = openapi.page(described).encode()
    told = orjson.dumps(described)

    async def show_page(_: web.Request) -> web.Response:
        nothing_else = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=nothing_else)

    async def show_document(_: web.Request) -> web.Response:
        return web.Response(body=told, content_type="application/json")

    app.router.add_get("/", show_page)
    app.router.add_get("/openapi.json", show_document)
    for endpoint in ENDPOINTS:
        path = endpoint.path.removeprefix("/admin")
        app.router.add_route(endpoint.method, path, _handler(operations, endpoint))
    return app


def _handler(operations: Operations, endpoint: Endpoint) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        request_model = (
            _queried(request, endpoint.request)
            if endpoint.method == "GET"
            else await _posted(request, endpoint.request)
        )
        answer = await endpoint.do(Call(operations, request_model, request.remote or "nowhere"))
        body = endpoint.response.model_validate(answer, from_attributes=True).model_dump_json()
        return web.Response(body=body.encode(), content_type="application/json")

    return handle


# -- what is asked


class _Faulty(Exception):
    """Parameters that are wrong."""

    def __init__(self, *faults: schemas.Fault) -> None:
        super().__init__("; ".join(f"{fault.where}: {fault.what}" for fault in faults))
        self.faults = list(faults)


def _queried(request: web.Request, model: type[BaseModel]) -> BaseModel:
    if twice := [name for name in request.query if len(request.query.getall(name)) > 1]:
        raise _Faulty(schemas.Fault(where=twice[0], what="is given twice"))
    return _checked(lambda: model.model_validate_strings(dict(request.query)))


async def _posted(request: web.Request, model: type[BaseModel]) -> BaseModel:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="the body must be application/json")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not come in time") from None
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise web.HTTPBadRequest(text=f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return _checked(lambda: model.model_validate(given, strict=True))


def _checked(read: Callable[[], BaseModel]) -> BaseModel:
    try:
        return read()
    except ValidationError as error:
        faults = [
            schemas.Fault(where=".".join(map(str, each["loc"]))[:100], what=each["msg"].removeprefix("Value error, "))
            for each in error.errors(include_input=False, include_url=False, include_context=False)[:20]
        ]
        raise _Faulty(*faults) from None


# -- who asks, and what is answered where it is not done


def _asking_for(token: str) -> Any:
    wanted = token.strip().encode()

    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), wanted)
        if scheme.lower() != "bearer" or not same:
            raise web.HTTPUnauthorized(
                text="Authorization: Bearer, with the token, is needed",
                headers={"WWW-Authenticate": 'Bearer realm="admin"'},
            )
        return await handler(request)

    return ask


@web.middleware
async def _answering_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ("WWW-Authenticate", "Allow") if name in error.headers}
        return _problem(error.status, error.text or error.reason, headers=kept)
    except _Faulty as error:
        return _problem(422, str(error), errors=error.faults)
    except Contention as error:
        return _problem(409, str(error), headers={"Retry-After": "1"})
    except OperationError as error:
        return _problem(_STATUS[type(error)], str(error))
    except Exception:  # noqa: BLE001  who asks is answered, whatever it is; the log tells us
        _log.exception("admin_request_failed", method=request.method, path=request.path)
        return _problem(500, "this is a bug: the log has it")


def _problem(
    status: int, detail: str, *, errors: list[schemas.Fault] | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    # What is told may repeat what was asked, which need not be text that can be written.
    readable = detail.encode("utf-8", "replace").decode()
    problem = schemas.Problem(title=HTTPStatus(status).phrase, status=status, detail=readable, errors=errors)
    body = orjson.dumps(problem.model_dump(exclude_none=True))
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)
