"""Serves the JSON API under /admin/: the operator actions on pending content, batches and quarantine, over HTTP.

Every request needs the token, also those for the page and the OpenAPI document. A GET request has its parameters in the
query, a POST request in a JSON object; both are limited in size, and unknown parameters are rejected. A failed request
gets a problem (RFC 9457), whose status corresponds to the exit status of the command line.
"""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

from service.domain.json_limits import has_too_many_values
from service.http import openapi, schemas
from service.http.authorization import requiring
from service.http.endpoints import batches, find, health, inputs, pending, privacy, quarantine, topics
from service.http.schemas import Call, Endpoint
from service.operators.errors import (
    Conflict,
    Contention,
    InvalidRequest,
    NotFound,
    OperationError,
    TooSlow,
    Unavailable,
)
from service.operators.operations import Operations
from service.runtime.tokens import Denials, Tokens

BODY_VALUES = 10_000
"""Most JSON values in a body. Objects of hundreds of thousands would block the event loop for over a second."""

BODY_SECONDS = 30
"""Longest accepted time for receiving a body, in seconds."""

ENDPOINTS: Sequence[Endpoint] = (
    *pending.endpoints(),
    *quarantine.endpoints(),
    *inputs.endpoints(),
    *health.endpoints(),
    *find.endpoints(),
    *batches.endpoints(),
    *topics.endpoints(),
    *privacy.endpoints(),
)

_log = structlog.get_logger(__name__)

_STATUS: dict[type[OperationError], int] = {
    InvalidRequest: 422,
    NotFound: 404,
    Conflict: 409,
    Contention: 409,
    Unavailable: 503,
    TooSlow: 503,
}

PROBLEMS = {
    400: "The body is not a JSON object.",
    401: "The token is missing or wrong.",
    403: "The token can read only.",
    404: "The subject of the request does not exist.",
    409: "The present state forbids the action, or another transaction is working on the subject: see the detail.",
    413: "The body is too large.",
    422: "A parameter is wrong: see the errors.",
    429: "Too many requests with a wrong token.",
    503: "The database is unavailable. What was committed before stays.",
}
"""Descriptions of the problems in the OpenAPI document, by HTTP status."""


def document() -> dict[str, Any]:
    """Build the OpenAPI document of the JSON API."""
    return openapi.document(
        ENDPOINTS,
        title="Essay Lifecycle Service: administration",
        version="1",
        description="Operator actions on pending content, batches and quarantine, the same as on the command line. "
        "Every request needs the header Authorization: Bearer, with the token of ELS_ADMIN_TOKEN. Every change is "
        "recorded in the log of operator actions (ops.operator_actions) with who and why.",
        problem=schemas.Problem,
        problems=PROBLEMS,
    )


def application(operations: Operations, tokens: Tokens, denials: Denials | None = None) -> web.Application:
    """Build the application that serves /admin/ to clients with a token."""
    app = web.Application(middlewares=[_with_problems, requiring(tokens, denials or Denials())])
    described = document()
    page = openapi.page(described).encode()
    encoded = orjson.dumps(described)

    async def show_page(_: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    async def show_document(_: web.Request) -> web.Response:
        return web.Response(body=encoded, content_type="application/json")

    app.router.add_get("/", show_page)
    app.router.add_get("/openapi.json", show_document)
    for endpoint in ENDPOINTS:
        path = endpoint.path.removeprefix("/admin")
        app.router.add_route(endpoint.method, path, _handler(operations, endpoint))
    return app


def _handler(operations: Operations, endpoint: Endpoint) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        request_model = (
            _read_query(request, endpoint.request)
            if endpoint.method == "GET"
            else await _read_body(request, endpoint.request)
        )
        result = await endpoint.do(Call(operations, request_model, request.remote or "nowhere"))
        if endpoint.method == "GET":
            # What is read here holds names of files and of persons, and so does what is searched, which is not logged.
            given = request_model.model_dump(exclude_none=True, exclude={"file", "user", "contains"})
            _log.info("personal_data_read", address=request.remote, path=request.path, parameters=given)
        body = endpoint.response.model_validate(result, from_attributes=True).model_dump_json()
        return web.Response(body=body.encode(), content_type="application/json")

    return handle


# -- parameters
class _InvalidParameters(Exception):
    """Parameters of a request are wrong."""

    def __init__(self, *errors: schemas.ParameterError) -> None:
        super().__init__("; ".join(f"{error.where}: {error.what}" for error in errors))
        self.errors = list(errors)


def _read_query(request: web.Request, model: type[BaseModel]) -> BaseModel:
    if twice := [name for name in request.query if len(request.query.getall(name)) > 1]:
        raise _InvalidParameters(schemas.ParameterError(where=twice[0], what="is given more than once"))
    return _validated(lambda: model.model_validate_strings(dict(request.query)))


async def _read_body(request: web.Request, model: type[BaseModel]) -> BaseModel:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="the body must be application/json")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body was not received in time") from None
    if has_too_many_values(body, BODY_VALUES):
        raise web.HTTPRequestEntityTooLarge(BODY_VALUES, text=f"the body has more than {BODY_VALUES} JSON values")
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return _validated(lambda: model.model_validate(given, strict=True))


def _validated(read: Callable[[], BaseModel]) -> BaseModel:
    try:
        return read()
    except ValidationError as error:
        errors = [
            schemas.ParameterError(
                where=".".join(map(str, each["loc"]))[:100], what=each["msg"].removeprefix("Value error, ")
            )
            for each in error.errors(include_input=False, include_url=False, include_context=False)[:20]
        ]
        raise _InvalidParameters(*errors) from None


# -- errors


@web.middleware
async def _with_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ("WWW-Authenticate", "Allow") if name in error.headers}
        return _problem(error.status, error.text or error.reason, headers=kept)
    except _InvalidParameters as error:
        return _problem(422, str(error), errors=error.errors)
    except Contention as error:
        return _problem(409, str(error), headers={"Retry-After": "1"})
    except OperationError as error:
        parameter = f" (`{error.parameter}`)" if error.parameter else ""
        return _problem(_STATUS[type(error)], f"{error}{parameter}")
    except Exception:  # noqa: BLE001  the client gets a response after any error; the log has the details
        _log.exception("admin_request_failed", method=request.method, path=request.path)
        return _problem(500, "this is a bug: the log has the details")


def _problem(
    status: int,
    detail: str,
    *,
    errors: list[schemas.ParameterError] | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    # The detail may repeat parts of the request that cannot be encoded as UTF-8.
    readable = detail.encode("utf-8", "replace").decode()
    problem = schemas.Problem(title=HTTPStatus(status).phrase, status=status, detail=readable, errors=errors)
    body = orjson.dumps(problem.model_dump(exclude_none=True))
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)
