"""Declares the erasure of personal data."""

from collections.abc import Sequence
from typing import Final

from service.console.actions.action import Action, Done, Field, Plan, Values, counted
from service.operators.errors import InvalidRequest, NotFound
from service.operators.operations import Operations
from service.operators.privacy import ErasureRequest
from service.store.operator_actions import Operator

WAIT_SECONDS_HERE: Final = 20.0
"""How long a request waits for events that must be published first. What is not erased then is named."""

SHOWN_ROWS: Final = 20

ERASABLE: Final = ("user", "batch", "text", "upload", "file")


def _request(values: Values) -> ErasureRequest:
    kind, batch, name = values["kind"], values["batch"] or "", values["name"] or ""
    if kind in ("batch", "text", "upload") and not batch:
        raise InvalidRequest("give the batch")
    if kind != "batch" and not name:
        raise InvalidRequest("give what is to be erased: the user, the id, or a part of the file name")
    return ErasureRequest(kind, "" if kind in ("user", "file") else batch, "" if kind == "batch" else name)


async def _plan(operations: Operations, values: Values) -> Plan:
    report = await operations.privacy.erase(Operator("plan"), _request(values), dry_run=True)
    if not (report.batches or report.matches or report.rejected_inputs):
        raise NotFound("nothing that is stored matches")
    files = [f"{row['original_file_name']} of batch {row['batch_id']}" for row in report.matches]
    batches = [f"batch {each['batch_id']}: {'all' if each['whole'] else 'a part'}" for each in report.batches]
    return Plan(
        f"Personal data in {len(report.batches):,} batches and "
        f"{counted(report.rejected_inputs, 'rejected input')} will be erased, and whatever arrives of it again. Ids "
        "and states stay. This cannot be undone.",
        (files or batches)[:SHOWN_ROWS],
    )


async def _erase(operations: Operations, by: Operator, values: Values) -> Done:
    report = await operations.privacy.erase(by, _request(values), wait_seconds=WAIT_SECONDS_HERE)
    rows = [f"not yet erased: batch {each['batch_id']}, {each['why']}; do it again" for each in report.blocked]
    if report.unsearchable_inputs:
        rows.append(f"{report.unsearchable_inputs} rejected record batches cannot be searched: look at them")
    rows += [f"it remains elsewhere: {place}" for place in report.remaining]
    done, all_ = len(report.batches), len(report.batches) + len(report.blocked)
    return Done(f"Erased in {done:,} of {all_:,} batches.", rows, has_failed=bool(report.blocked))


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "privacy-erase",
            "Erase personal data",
            "Erases names of files, users, instructions and messages of a user, a batch, a text or an upload of a "
            "batch, or of files whose names contain something. Identities and states stay.",
            (
                Field("kind", "What", kind="choice", choices=ERASABLE, is_required=True),
                Field("batch", "Batch", "for a batch, a text or an upload"),
                Field("name", "User, text or upload id, or part of the file name"),
            ),
            _plan,
            _erase,
            is_whole=False,
        ),
    )
