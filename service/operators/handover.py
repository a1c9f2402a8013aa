"""Hands a quarantined input over to the cell that its batch belongs to.

That is known only once the input can be decoded: because a later release decodes it, or an operator has corrected
it. It is put into the quarantine of that cell and replayed there, and then closed here. After a crash between the two
it is open here and closed there; the next attempt finds that, and closes it here.
"""

from typing import Any

from service.domain.delivery import Delivery, IntakeLimits, Unreadable, fingerprint
from service.domain.events import Reason, Rejection
from service.domain.input_limits import InputLimits
from service.operators.errors import Conflict, NotFound
from service.operators.replay import Replay, Replayed
from service.postgres.fence import read_slice_error
from service.postgres.pool import Database
from service.store import quarantine
from service.store.operator_actions import Operator


async def replay_there(
    there: Database,
    by: Operator,
    row: dict[str, Any],
    edited: bytes | None,
    limits: IntakeLimits,
    input_limits: InputLimits,
) -> Replayed:
    """Replay the input of this row, or an edited value, in the database of another cell. Returns what became of it.

    Raises psycopg.Error, and Conflict where that is no database of this cell, or somebody else replays it meanwhile.
    """
    delivery = _delivery(row)
    async with there.transaction() as conn:
        if error := await read_slice_error(conn):
            raise Conflict(f"ELS_CELL_DATABASE_URLS: {error}")
        if await quarantine.find_quarantined(conn, row["topic"], row["fingerprint"]) is None:
            await quarantine.quarantine_inputs(conn, [(delivery, delivery.event)])  # type: ignore[list-item]
        found = await quarantine.find_quarantined(conn, row["topic"], row["fingerprint"])
    if found is None:
        raise NotFound("the other cell has deleted the input")
    id_, state, _ = found
    if state != "open":
        return Replayed(id_, row["topic"], "repeat")
    replay = Replay(there, by, limits, input_limits)
    return await (replay.replay(id_) if edited is None else replay.edit(id_, edited))


def _delivery(row: dict[str, Any]) -> Delivery:
    """Return the input as it was rejected, with its identity: of a large value, only the first bytes are kept."""
    value, rejection = row["value"], Rejection(Reason(row["reason"]), row["error"])
    headers = [(name, None if text is None else text.encode("latin-1", "replace")) for name, text in row["headers"]]
    topic, partition, offset = row["topic"], row["partition"], row["offset"]
    delivery = Delivery(topic, partition, offset, row["key"], value, headers, rejection)
    if fingerprint(delivery) != row["fingerprint"]:
        delivery.value = Unreadable(value or b"", offset, rejection.error, rejection.reason, row["fingerprint"])
    return delivery
