"""Restores, removals, expiries and the registration race for what waits, in every order that the locks allow.

Each may crash at its commit. At the end of each order no invariant is violated, and ops.timeline says of each upload
what has happened to it: as often expired as it was announced, as often restored or removed as the log of actions says.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest

from service.domain.events import Incoming
from service.domain.topics import PENDING_EXPIRED
from service.operators.errors import OperationError
from service.operators.pending import PendingActions
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from tests.integration.purge.test_purge_races import purge
from tests.support.builders.events import content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.interleaving.interleaving import Report, Stage, stage

Act = Callable[[Database], Awaitable[None]]
BY = Operator("a test")


async def restore(database: Database) -> None:
    """Restore the text and the upload by their ids, as far as both are expired."""
    with suppress(OperationError):
        await PendingActions(database).restore(BY, PendingFilter("b", ["c1", "f1"]))


async def remove(database: Database) -> None:
    with suppress(OperationError):
        await PendingActions(database).remove(BY, "pending clear", PendingFilter("b"))


@dataclass(frozen=True, slots=True)
class Race:
    """What races; `expired`: from uploads that have expired, instead of pending ones."""

    works: Mapping[str, Sequence[Incoming] | Act]
    expired: bool = False


c1, f1 = content("c1"), failure("f1")
EXPIRE = purge("expire_content")
RACES = {
    "restore and the registration": Race({"O": restore, "R": [registration(essays=2)]}, expired=True),
    "restore and a registration with one slot": Race({"O": restore, "R": [registration(essays=1)]}, expired=True),
    "restore and expiry": Race({"O": restore, "P": EXPIRE}, expired=True),
    "two restores": Race({"O": restore, "Q": restore}, expired=True),
    "restore and removal": Race({"O": restore, "X": remove}, expired=True),
    "removal and the registration": Race({"X": remove, "R": [registration(essays=2)]}),
    "removal and expiry": Race({"X": remove, "P": EXPIRE}),
    "expiry and the registration": Race({"P": EXPIRE, "R": [registration(essays=2)]}),
}

EXPIRED = "".join(
    f"update els.{table} set state = 'expired', closed_at = now();"
    for table in ("pending_content", "validation_failures")
)


def wrong(played: Stage, race: Race) -> list[str]:
    """What is wrong in the tables and the outbox, and in the history of the uploads."""
    conn = played.observer
    found = invariants.violations(conn)
    found += [str(row) for row in conn.execute("select * from ops.invariant_violations")]

    def happened(upload: str) -> Counter[str]:
        """What happened how often. Not in order: these expiries are of the year 2099."""
        query = "select what from ops.timeline where %s in (text_storage_id, file_upload_id)"
        return Counter(what.removeprefix("failed, ") for (what,) in conn.execute(query, [upload]).fetchall())

    def counted(query: str, *values: object) -> int:
        ((count,),) = conn.execute(query.encode(), values).fetchall()
        return int(count)

    text, upload = happened("c1"), happened("f1")
    for each in (text, upload):
        ends = each["assigned"] + each["excess"] + each["failed"] + each["surplus"] + each["removed"]
        if each["pending"] != 1 or each["restored"] > each["expired"] or ends > 1:
            found.append(f"history: {each}")
    announced = counted("select count(*) from ops.outbox_events where topic = %s", PENDING_EXPIRED)
    if text["expired"] != announced + race.expired:
        found.append(f"expired {announced} times: {text}")
    for what, action in (("restored", "pending restore"), ("removed", "pending clear")):
        acted = counted(
            "select count(*) from els.operator_actions where action = %s and details -> 'text_storage_ids' ? %s",
            action,
            "c1",
        )
        if text[what] != acted:
            found.append(f"{what} {acted} times: {text}")
    return found


async def run(played: Stage, race: Race) -> Report:
    """Every order of the race, each checked at its end."""
    polls = {name: work for name, work in race.works.items() if not callable(work)}

    async def check(played: Stage, dead: Sequence[str]) -> list[str]:
        found = wrong(played, race)
        for name in dead:
            if name in polls:
                await played.deliver(deliveries(*polls[name]))
        found += wrong(played, race)
        played.observer.execute("delete from els.operator_actions")  # the stage does not reset it
        return found

    await played.start_from(deliveries(c1, f1), then=EXPIRED if race.expired else "")
    works = {name: deliveries(*polls[name]) if name in polls else work for name, work in race.works.items()}
    return await played.explore(lambda: works, check, deaths=1)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("name", RACES)
async def test_no_order_loses_what_happened_to_an_upload(database_url: str, name: str) -> None:
    async with stage(database_url, 2) as played:
        report = await run(played, RACES[name])
    print(f"{name}: {report}")
    assert not report.violations, str(report.violations[0])
    assert report.orders > 1


async def test_the_races_detect_a_history_that_is_lost(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = STATEMENTS["insert_reconciled_slots"]
    monkeypatch.setitem(
        STATEMENTS,
        "insert_reconciled_slots",
        copied.replace("els.with_state(waiting.history, waiting.state, waiting.closed_at)", "waiting.history"),
    )
    async with stage(database_url, 2) as played:
        report = await run(played, RACES["expiry and the registration"])
    assert report.violations
