"""Handles the requests that act: asks for a reason, shows what would change, then performs it.

What was shown is performed: the fields travel in the address of the form, not in its text, where a browser would change
the ends of lines in an id.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog
from aiohttp import web
from markupsafe import Markup

from service.console.access import PERSON, read_form
from service.console.actions import batches, health, pending, privacy, quarantine, topics
from service.console.actions.action import Action, Field
from service.console.cells import CELL, ConsoleCells
from service.console.outages import Outage
from service.console.rendering import CURRENT_CELL, href
from service.operators import parameters
from service.operators.errors import Conflict, InvalidRequest, OperationError, Unavailable
from service.store.operator_actions import Operator

ACTIONS: Final[Mapping[str, Action]] = {
    action.name: action
    for module in (pending, quarantine, batches, topics, health, privacy)
    for action in module.actions()
}
"""All actions, by their name."""

OUTAGES: Final = web.RequestKey("outages", Sequence[Outage])
"""What was down when a request arrived."""

Render = Callable[..., web.Response]

_log = structlog.get_logger(__name__)


class Acting:
    """Handles the requests below /console/do/."""

    def __init__(self, cells: ConsoleCells, render: Render) -> None:
        self._cells = cells
        self._render = render

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes."""
        return [
            web.get("/do/{action}", self._show),
            web.post("/do/{action}", self._act),
        ]

    async def _show(self, request: web.Request) -> web.Response:
        action, person, given = _action(request), request[PERSON], dict(request.query)
        if action.begin is not None and person.may_act and not _forbidding(request):
            try:
                given |= await action.begin(self._cells[request[CELL]].operations, given)
            except ValueError as error:
                raise InvalidRequest(str(error)) from None
            _log_read(request)
        return self._form(request, action, given)

    async def _act(self, request: web.Request) -> web.Response:
        person = request[PERSON]
        action = _action(request)
        if not person.may_act:
            return self._render(request, "forbidden.html", status=403, why="You can read here, and not act.")
        posted = await read_form(request)
        names = {each.name for each in action.fields}
        given = {name: value for name, value in {**request.query, **posted}.items() if name in names}
        why = posted.get("why", "").strip()
        await self._move(request, action, given)
        reads, operations = self._cells[request[CELL]]
        is_begun = False
        try:
            values = action.values(given)
            _check_reason(why)
            if outage := _forbidding(request):
                raise Unavailable(outage.text) if outage.about == "database" else Conflict(outage.text)
            if posted.get("step") == "perform":
                is_begun = True
                try:
                    done = await action.perform(operations, Operator(person.who, why), values)
                finally:
                    reads.forget()
                of_cell = {"of_cell": request[CELL]} if self._cells.are_several else {}
                _log.info("console_action", who=person.who, action=action.name, **of_cell)
                return self._render(request, "done.html", action=action, done=done)
            plan = await action.plan(operations, values)
            _log_read(request)
        except Unavailable as error:
            return self._form(request, action, given, why=why, error=_lost(error, is_begun=is_begun), status=503)
        except OperationError as error:
            return self._form(
                request, action, given, why=why, error=_message(action, error, is_begun=is_begun), status=422
            )
        bound = {**given, **plan.bound}
        # A long text stays in the form: an address has a limit, and a browser keeps the lines of a text area.
        texts = {each.name: bound.pop(each.name) for each in action.fields if each.kind == "text"}
        target = _target(action, bound)
        return self._render(request, "plan.html", action=action, plan=plan, why=why, texts=texts, target=target)

    async def _move(self, request: web.Request, action: Action, given: Mapping[str, str]) -> None:
        """Turn to the cell that has the batch of a form, which the address may not have named."""
        batch_id = batch_of(action, given)
        if batch_id and self._cells.owner(batch_id) != request[CELL]:
            request[CELL] = self._cells.owner(batch_id)
            CURRENT_CELL.set(request[CELL])
            request[OUTAGES] = await self._cells.outages(request[CELL])

    def _form(
        self,
        request: web.Request,
        action: Action,
        given: Mapping[str, str],
        why: str = "",
        error: str | None = None,
        status: int = 200,
    ) -> web.Response:
        fixed = {each.name: request.query[each.name] for each in action.fields if request.query.get(each.name)}
        return self._render(
            request,
            "form.html",
            status=status,
            action=action,
            given=given,
            fixed=fixed,
            why=why,
            error=error,
            asked=_asked(action, fixed),
            listing=href(action.listed, **fixed) if action.listed and fixed and "ids" not in fixed else None,
            target=_target(action, fixed),
        )


def _asked(action: Action, fixed: Mapping[str, str]) -> tuple[list[Field], list[Field]]:
    """Returns the fields that a form asks for, and those that can narrow down what is selected already.

    Where conditions are given, what would replace them is not asked for, and beside that no other condition is.
    """
    open_ = [each for each in action.fields if each.name not in fixed]
    selects = {each.name: each.stands_alone for each in action.fields}
    if not fixed or not any(selects.values()):
        return open_, []
    return [], [] if any(selects[name] for name in fixed) else [each for each in open_ if not each.stands_alone]


def batch_of(action: Action, given: Mapping[str, str]) -> str | None:
    """Returns the id of the batch that an action is about, if it is about one."""
    is_about_one = any(each.name == "batch" and each.kind == "line" for each in action.fields)
    return given.get("batch") if is_about_one else None


def _action(request: web.Request) -> Action:
    try:
        return ACTIONS[request.match_info["action"]]
    except KeyError:
        raise web.HTTPNotFound from None


def _log_read(request: web.Request) -> None:
    """Log who reads what an action would change: that may be names of files, or a whole rejected input."""
    given = {"id": request.query["id"]} if "id" in request.query else {}
    _log.info("personal_data_read", who=request[PERSON].who, path=request.path, parameters=given)


def _message(action: Action, error: OperationError, *, is_begun: bool) -> str:
    """Returns why an action is not performed, or not to its end, with the field that would allow it."""
    if is_begun and not action.is_whole:
        return f"This was not finished: {error}. Look on the page Actions what was done."
    allowing = next((each.label for each in action.fields if each.name == error.parameter), None)
    return f"Nothing was changed: {error} ({allowing})" if allowing else f"Nothing was changed: {error}"


def _lost(error: Unavailable, *, is_begun: bool) -> str:
    """Returns what is known of an action that the database or the broker did not answer."""
    if not is_begun:
        return f"Nothing was changed: {error}"
    return f"This was not answered: {error}. Look on the page Actions whether it was done, before you do it again."


def _forbidding(request: web.Request) -> Outage | None:
    """Returns why no action can be performed now."""
    return next((each for each in request.get(OUTAGES, ()) if each.forbids_actions), None)


def _check_reason(why: str) -> None:
    if not why:
        raise InvalidRequest("give a reason: the log of operator actions keeps it")
    try:
        parameters.reason(why)
    except ValueError as error:
        raise InvalidRequest(f"reason: {error}") from None


def _target(action: Action, given: Mapping[str, Any]) -> Markup:
    return href(f"do/{action.name}", **given)
