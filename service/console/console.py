"""Builds the application that serves /console/: the login, the pages, the actions and the files that they need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from markupsafe import Markup

from service.console.access import OPEN, PERSON, Access, add_headers, controlled, read_form
from service.console.acting import ACTIONS, OUTAGES, Acting, batch_of
from service.console.cells import CELL, ConsoleCells
from service.console.pages import batches, kafka, log, overview, quarantine, runbook, waiting
from service.console.pages.reads import ConsolePage, Query, read_in_time
from service.console.rendering import CURRENT_CELL, FOLDER, environment, href
from service.console.session import COOKIE
from service.operators import parameters
from service.operators.errors import Contention, InvalidRequest, NotFound, OperationError, TooSlow, Unavailable
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

_PAGE_AT: Final = {f"/console/{page.path}": page for page in PAGES}

CURRENT_PAGE: Final = web.RequestKey("page", ConsolePage)
"""The page that a request is for; of an action, there is none."""

_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

_SEARCHED: Final = ("contains", "file", "text", "user", "who")
"""Parameters that may be the name of a person: they are not logged."""

_log = structlog.get_logger(__name__)


class Console:
    """Serves the console of one process."""

    def __init__(self, access: Access, cells: ConsoleCells) -> None:
        self._access = access
        self._cells = cells
        self._templates = environment()
        self._files = {path.name: path.read_bytes() for path in (FOLDER / "static").iterdir() if path.suffix in _TYPES}
        self._acting = Acting(cells, self._render)

    def application(self) -> web.Application:
        """Build the application."""
        control = controlled(self._access, self._forbid)
        app = web.Application(middlewares=[self._with_errors, control, self._with_cell, self._with_outages])
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
            cell, query, template = request.get(CELL), Query(request.query), page.template
            if cell is None and page.read_all:
                template = page.template_of_all or template
                values = await page.read_all(self._cells.reads, query)
            else:
                reads = self._cells[self._cells.own if cell is None else cell].reads
                if page.needs_database and (error := await reads.unavailable()):
                    raise error
                async with read_in_time(page.seconds):
                    values = await page.read(reads, query)
            request[OUTAGES] = await self._cells.outages(cell)  # it may have found out more
            return self._render(request, template, **values)

        return handle

    def _render(self, request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
        given = {
            "page": request.get(CURRENT_PAGE),
            "person": request.get(PERSON),
            "outages": request.get(OUTAGES, ()),
            "menu": PAGES,
            "cell": request.get(CELL),
            "cells": self._links(request),
            "is_of_one_cell": self._is_of_one_cell(request),
            "address": request.rel_url.raw_path_qs,
            **values,
        }
        text = self._templates.get_template(template).render(given)
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")

    async def _samples(self, _: web.Request) -> web.Response:
        samples = self._cells[self._cells.own].reads.samples
        return web.Response(body=orjson.dumps(samples.columns() if samples else {}), content_type="application/json")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=_TYPES[Path(name).suffix], charset="utf-8")

    async def _enter(self, _: web.Request) -> web.Response:
        raise web.HTTPSeeOther("/console/")

    # -- cells

    @web.middleware
    async def _with_cell(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Find out which cell a request is about; its links then lead to the same one."""
        cell = self._cell(request)
        CURRENT_CELL.set(cell if self._cells.are_several else None)
        if cell is not None:
            request[CELL] = cell
        return await handler(request)

    def _cell(self, request: web.Request) -> int | None:
        """Returns the cell: that of the batch, else the one that the address names. None stands for all.

        Raises InvalidRequest.
        """
        if not self._cells.are_several or PERSON not in request:
            return self._cells.own
        if batch_id := self._batch(request):
            return self._cells.owner(batch_id)
        page, asked = _PAGE_AT.get(request.path), self._cells.asked(request.query)
        if page and page.read_all and (asked is None or page.is_of_all):
            return None
        return self._cells.own if asked is None else asked

    def _batch(self, request: web.Request) -> str | None:
        """Returns the id of the batch that a request is about, if it is about one."""
        if page := _PAGE_AT.get(request.path):
            return request.query.get(page.batch)
        action = ACTIONS.get(request.match_info.get("action", ""))
        return batch_of(action, request.query) if action else None

    def _is_of_one_cell(self, request: web.Request) -> bool:
        """Returns whether another cell has nothing to show at this address."""
        return bool(self._batch(request)) or any(name in request.query for name in ("id", "ids"))

    def _links(self, request: web.Request) -> list[tuple[int, Markup]]:
        """Returns the addresses that show the same of each cell; none where there is only one."""
        if PERSON not in request:
            return []
        path = request.path.removeprefix("/console/")
        return [(cell, href(path, **given)) for cell, given in self._cells.links(request)]

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
            request[OUTAGES] = await self._cells.outages(request.get(CELL))
        try:
            return await handler(request)
        except Unavailable:
            self._cells.forget(request.get(CELL))
            request[OUTAGES] = await self._cells.outages(request.get(CELL))
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
