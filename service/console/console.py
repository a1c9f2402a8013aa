"""Builds the application that serves /console/: the login, the pages, the actions and the files that they need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.console.access import OPEN, PERSON, Access, add_headers, controlled, read_form
from service.console.acting import OUTAGES, Acting
from service.console.pages import batches, kafka, log, overview, quarantine, runbook, waiting
from service.console.pages.reads import ConsolePage, Query, Reads, read_in_time
from service.console.rendering import FOLDER, environment
from service.console.session import COOKIE
from service.operators import parameters
from service.operators.errors import Contention, InvalidRequest, NotFound, OperationError, TooSlow, Unavailable
from service.operators.operations import Operations
from service.runtime.tokens import TooManyDenied

PAGES: Final[Sequence[ConsolePage]] = (
    *overview.pages(),
    *batches.pages(),
    *waiting.pages(),
    *quarantine.pages(),
    *kafka.pages(),
    *log.pages(),
    *runbook.pages(),
)

CURRENT_PAGE: Final = web.RequestKey("page", ConsolePage)
"""The page that a request is for; of an action, there is none."""

_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

_SEARCHED: Final = ("contains", "file", "text", "user", "who")
"""Parameters that may be the name of a person: they are not logged."""

_log = structlog.get_logger(__name__)


class Console:
    """Serves the console of one process."""

    def __init__(self, access: Access, reads: Reads, operations: Operations) -> None:
        """`operations` perform the actions, in sessions of their own."""
        self._access = access
        self._reads = reads
        self._templates = environment()
        self._files = {path.name: path.read_bytes() for path in (FOLDER / "static").iterdir() if path.suffix in _TYPES}
        self._acting = Acting(operations, self._render, reads.forget)

    def application(self) -> web.Application:
        """Build the application."""
        control = controlled(self._access, self._forbid)
        app = web.Application(middlewares=[self._with_errors, control, self._with_outages])
        app.on_response_prepare.append(add_headers)
        app.router.add_get("", self._enter)
        app.router.add_get("/login", self._show_login)
        app.router.add_post("/login", self._log_in)
        app.router.add_post("/logout", self._log_out)
        app.router.add_get("/static/{name}", self._file)
        app.router.add_get("/samples.json", self._samples)
        app.router.add_routes(self._acting.routes())
        for page in PAGES:
            app.router.add_get(f"/{page.path}", self._handler(page))
        return app

    # -- pages

    def _handler(self, page: ConsolePage) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            if page.shows_persons:  # whatever the headers say: who reads could set them
                person = request[PERSON]
                # Not what is searched, which may be the name of a person.
                given = {name: value for name, value in request.query.items() if name not in _SEARCHED}
                _log.info("personal_data_read", who=person.who, path=request.path, parameters=given)
            request[CURRENT_PAGE] = page
            if page.needs_database and (error := await self._reads.unavailable()):
                raise error
            async with read_in_time(page.seconds):
                values = await page.read(self._reads, Query(request.query))
            request[OUTAGES] = await self._reads.outages.read()  # it may have found out more
            return self._render(request, page.template, **values)

        return handle

    def _render(self, request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
        given = {
            "page": request.get(CURRENT_PAGE),
            "person": request.get(PERSON),
            "outages": request.get(OUTAGES, ()),
            "menu": PAGES,
            "address": request.rel_url.raw_path_qs,
            **values,
        }
        text = self._templates.get_template(template).render(given)
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")

    async def _samples(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self._reads.samples.columns()), content_type="application/json")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=_TYPES[Path(name).suffix], charset="utf-8")

    async def _enter(self, _: web.Request) -> web.Response:
        raise web.HTTPSeeOther("/console/")

    # -- login

    async def _show_login(self, request: web.Request) -> web.Response:
        target = _local(request.query.get("next", ""))
        if self._access.person(request) is not None:
            raise web.HTTPSeeOther(target)
        return self._login_page(request, target)

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await read_form(request)
        who, token, target = (form.get(name, "").strip() for name in ("who", "token", "next"))
        try:
            parameters.short_text(who)
        except ValueError:
            return self._login_page(request, target, who=who, error="Enter your name.", status=422)
        try:
            person = await self._access.log_in(request, who, token)
        except TooManyDenied:
            error = "Too many wrong tokens are being tried. Try again in a few seconds."
            return self._login_page(request, target, who=who, error=error, status=429)
        if person is None:
            return self._login_page(request, target, who=who, error="This token is wrong.", status=401)
        response = web.Response(status=303, headers={"Location": _local(target)})
        self._access.set_cookie(request, response, person)
        return response

    def _login_page(
        self, request: web.Request, target: str, *, who: str = "", error: str | None = None, status: int = 200
    ) -> web.Response:
        return self._render(request, "login.html", status=status, target=_local(target), who=who, error=error)

    async def _log_out(self, _: web.Request) -> web.Response:
        response = web.Response(status=303, headers={"Location": "/console/login"})
        response.del_cookie(COOKIE, path="/console")
        return response

    # -- errors

    @web.middleware
    async def _with_outages(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let each page that a person sees say what is down, whatever it shows."""
        if PERSON in request and not request.path.startswith(OPEN):
            request[OUTAGES] = await self._reads.outages.read()
        try:
            return await handler(request)
        except Unavailable:
            self._reads.outages.forget()
            request[OUTAGES] = await self._reads.outages.read()
            raise

    async def _forbid(self, request: web.Request, why: str) -> web.Response:
        return self._render(request, "forbidden.html", status=403, why=why)

    @web.middleware
    async def _with_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        status, why, is_slow = 500, "This is a bug: the log has the details.", False
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            status, why = error.status, error.reason
        except OperationError as error:
            status, is_slow = _STATUS_OF.get(type(error), 409), isinstance(error, TooSlow)
            is_said = any(each.about == "database" for each in request.get(OUTAGES, ()))
            why = "" if status == 503 and is_said else str(error)
        except Exception:  # noqa: BLE001  the person gets a page after any error; the log has the details
            _log.exception("console_request_failed", method=request.method, path=request.path)
        return self._render(request, "error.html", status=status, code=status, why=why, is_slow=is_slow)


_STATUS_OF: Final[dict[type[OperationError], int]] = {
    InvalidRequest: 422,
    NotFound: 404,
    Contention: 409,
    Unavailable: 503,
    TooSlow: 503,
}


def _local(target: str) -> str:
    """Returns an address of the console: whoever made a link must not be able to lead people elsewhere."""
    parts = urlsplit(target)
    is_ours = not parts.scheme and not parts.netloc and parts.path.startswith("/console/")
    plain = target.isascii() and target.isprintable() and "\\" not in target
    return target if is_ours and plain and not parts.path.startswith("/console/login") else "/console/"
