"""Checks the invariants with plain SQL on the tables and the outbox, independently of the service and its views.

`violations`   I1 to I7, which hold after any inputs and any crashes
`missing`      I8: inputs that are neither applied nor rejected after all of them were processed
`state`        everything except the counts of repeats, to be compared before and after a repeat
"""

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from service.domain.decisions import essay_set_of
from service.domain.events import AssociationsConfirmed, BatchRegistered, ContentProvisioned, Incoming, ValidationFailed

Connection = psycopg.Connection[Any]

SLOT_ASSIGNED = "huleedu.els.essay.slot.assigned.v1"
EXCESS = "huleedu.els.excess.content.provisioned.v1"
ERRORS = "huleedu.els.batch.validation.errors.v1"
READY = "huleedu.els.batch.essays.ready.v1"
COMPLETED = "huleedu.batch.content.provisioning.completed.v1"
CANCELLED = "huleedu.els.batch.cancelled.v1"

ORDER = ", ".join(f"'{topic}'" for topic in (SLOT_ASSIGNED, EXCESS, ERRORS, COMPLETED, READY, CANCELLED))
"""The order of the events of one commit, as SQL."""

# Each query returns the batch and the detail of a violation.
TABLES: Mapping[str, tuple[str, ...]] = {
    "I1 a content is in one place": (
        """
        select batch_id, format('content %s is %s', text_storage_id, string_agg(place, ' and '))
        from (
            select batch_id, text_storage_id, 'in slot ' || essay_id as place
            from els.slots where text_storage_id is not null
            union all
            select batch_id, text_storage_id, 'excess' from els.excess_content
            union all
            select batch_id, text_storage_id, state from els.pending_content
        ) as places
        group by batch_id, text_storage_id
        having count(*) > 1
        """,
    ),
    "I2 a slot holds one, and one holds a slot": (
        """
        select batch_id, format('failure %s has %s slots', file_upload_id, count(*))
        from els.slots
        where state = 'failed'
        group by batch_id, file_upload_id
        having count(*) > 1
        """,
        """
        select batch_id, format('slot %s is %s with content %s', essay_id, state, text_storage_id)
        from els.slots
        where (state = 'assigned') <> (text_storage_id is not null)
            or (state in ('open', 'withdrawn')) <> (file_upload_id is null)
        """,
        """
        select batch_id, format('position %s is %s slots', position, count(*))
        from els.slots
        group by batch_id, position
        having count(*) > 1
        """,
    ),
    "I3 excess is only where no slot is open": (
        """
        select batch_id, format('content %s is excess, slot %s is open', excess_content.text_storage_id, essay_id)
        from els.excess_content
        join els.slots using (batch_id)
        where slots.state = 'open'
        """,
        """
        select batch_id, format('content %s is excess, the batch is not registered', text_storage_id)
        from els.excess_content
        where batch_id not in (select batch_id from els.batches)
        """,
    ),
    "I4 nothing waits for a registered batch": (
        """
        select batch_id, format('content %s is %s', text_storage_id, pending_content.state)
        from els.pending_content
        join els.batches using (batch_id)
        where pending_content.state in ('pending', 'expired')
        """,
        """
        select batch_id, format('failure %s is %s', file_upload_id, validation_failures.state)
        from els.validation_failures
        join els.batches using (batch_id)
        where validation_failures.state in ('pending', 'expired')
        """,
        """
        select batch_id, format('confirmation %s is %s', confirmations.class_id, confirmations.state)
        from els.confirmations
        left join els.batches using (batch_id)
        where (confirmations.state = 'pending') <> (batches.batch_id is null)
            or confirmations.state = 'applied' and batches.confirmed_at is null
        """,
        """
        select batches.batch_id, format('is confirmed, with %s confirmations applied', count(confirmations.class_id))
        from els.batches
        left join els.confirmations on confirmations.batch_id = batches.batch_id and confirmations.state = 'applied'
        where confirmed_at is not null
        group by batches.batch_id
        having count(confirmations.class_id) <> 1
        """,
        """
        select batch_id, format('failure %s is %s, the batch is not registered', file_upload_id, state)
        from els.validation_failures
        where state in ('slot', 'surplus')
            and batch_id not in (select batch_id from els.batches)
        """,
    ),
    "I5 a batch is what its slots are": (
        """
        select batch_id, format(
            'is %s, counts %s assigned, %s failed and %s withdrawn of %s; has %s, %s, %s of %s', batches.state,
            batches.assigned, batches.failed, batches.withdrawn, batches.expected, slots.assigned, slots.failed,
            slots.withdrawn, slots.slots
        )
        from els.batches
        full join (
            select
                batch_id,
                count(*) as slots,
                count(*) filter (where state = 'assigned') as assigned,
                count(*) filter (where state = 'failed') as failed,
                count(*) filter (where state = 'withdrawn') as withdrawn
            from els.slots
            group by batch_id
        ) as slots using (batch_id)
        where (batches.expected, batches.assigned, batches.failed, batches.withdrawn, batches.state) is distinct from (
            slots.slots::int, slots.assigned::int, slots.failed::int, slots.withdrawn::int,
            case
                when slots.assigned + slots.failed + slots.withdrawn < slots.slots then 'registered'
                when batches.cancelled_at is not null then 'cancelled'
                when slots.assigned = 0 then 'failed'
                when batches.class_id <> '' and batches.confirmed_at is null and batches.state = 'complete'
                    then 'complete'
                else 'ready'
            end
        )
        """,
        """
        select batch_id, format('it was ready at %s, before it was complete at %s', ready_announced_at, completed_at)
        from els.batches
        where ready_announced_at < completed_at
        """,
        """
        select batch_id, format('%s slots are withdrawn, and others are open', withdrawn)
        from els.batches
        where withdrawn > 0
            and (state = 'registered' or batch_id in (select batch_id from els.slots where state = 'open'))
        """,
        """
        select batch_id, format('failure %s is %s, its slot is %s', file_upload_id, failures.state, slots.essay_id)
        from els.validation_failures as failures
        full join (select * from els.slots where state = 'failed') as slots using (batch_id, file_upload_id)
        where (failures.state is not distinct from 'slot') <> (slots.essay_id is not null)
        """,
    ),
}

# `event` is an outbox row with its payload as JSON. These hold even if the relay has deleted some rows.
EVENTS: Mapping[str, tuple[str, ...]] = {
    "I5 an announcement lists exactly the slots": (
        f"""
        select event.batch_id, format('is %s and announced as ready with %s', batches.state, event.data)
        from event
        left join els.batches using (batch_id)
        where event.type = '{READY}'
            and (batches.state is distinct from 'ready' or event.data -> 'ready_essays' is distinct from (
                select jsonb_agg(
                    jsonb_build_object('essay_id', essay_id, 'text_storage_id', text_storage_id)
                    order by position
                )
                from els.slots
                where slots.batch_id = event.batch_id
                    and slots.state = 'assigned'
            ))
        """,
        f"""
        select event.batch_id, format('is %s and announced as complete with %s', batches.state, event.data)
        from event
        left join els.batches using (batch_id)
        where event.type = '{COMPLETED}'
            and (not (coalesce(batches.state, '') in ('complete', 'ready') or completed_at < cancelled_at)
                or event.data -> 'essays_for_processing' is distinct from (
                select jsonb_agg(
                    jsonb_build_object('essay_id', essay_id, 'text_storage_id', text_storage_id)
                    order by position
                )
                from els.slots
                where slots.batch_id = event.batch_id
                    and slots.state = 'assigned'
            ))
        """,
        f"""
        select event.batch_id, format('is %s and announced with errors %s', batches.state, event.data)
        from event
        left join els.batches using (batch_id)
        where event.type = '{ERRORS}'
            and (
                not (batches.state in ('complete', 'ready', 'failed') or completed_at < cancelled_at)
                or (event.data -> 'error_summary' -> 'critical_failure')::boolean <> (batches.state = 'failed')
                or jsonb_path_query_array(event.data, '$.failed_essays[*].essay_id')
                    is distinct from (
                        select coalesce(jsonb_agg(file_upload_id order by position), '[]')
                        from els.slots
                        where slots.batch_id = event.batch_id
                            and slots.state = 'failed'
                    )
            )
        """,
        f"""
        select event.batch_id, format('is %s and announced as cancelled: %s', batches.state, event.data)
        from event
        left join els.batches using (batch_id)
        where event.type = '{CANCELLED}'
            and (batches.state is distinct from 'cancelled'
                or event.data ->> 'reason' <> cancel_reason
                or (event.data ->> 'expected_count')::int <> expected
                or (event.data ->> 'assigned_count')::int <> assigned
                or (event.data ->> 'failed_count')::int <> failed)
        """,
        f"""
        select batch_id, format('%s is numbered after the announcement', later.type)
        from event as later
        join event as announcement using (batch_id)
        where announcement.type in ('{READY}', '{COMPLETED}', '{ERRORS}', '{CANCELLED}')
            and later.seq > announcement.seq
            and later.type in ('{SLOT_ASSIGNED}', '{ERRORS}', '{COMPLETED}')
            and (announcement.type, later.type) <> ('{ERRORS}', '{COMPLETED}')
        """,
    ),
    "I6 an event says what is so": (
        f"""
        select event.batch_id, format('no slot is as it was announced: %s', event.data)
        from event
        where event.type = '{SLOT_ASSIGNED}'
            and not exists (
                select
                from els.slots
                where slots.batch_id = event.batch_id
                    and slots.essay_id = event.data ->> 'essay_id'
                    and slots.text_storage_id = event.data ->> 'text_storage_id'
                    and slots.file_upload_id = event.data ->> 'file_upload_id'
                    and slots.original_file_name = event.data ->> 'original_file_name'
                    and slots.correlation_id = event.correlation_id
                    and (slots.traceparent, slots.tracestate) is not distinct from
                        (event.traceparent, event.tracestate)
            )
        """,
        f"""
        select event.batch_id, format('nothing is excess as it was announced: %s', event.data)
        from event
        where event.type = '{EXCESS}'
            and not exists (
                select
                from els.excess_content as excess
                where excess.batch_id = event.batch_id
                    and excess.text_storage_id = event.data ->> 'text_storage_id'
                    and excess.reason = event.data ->> 'reason'
                    and excess.original_file_name = event.data ->> 'original_file_name'
                    and excess.correlation_id = event.correlation_id
                    and (excess.traceparent, excess.tracestate) is not distinct from
                        (event.traceparent, event.tracestate)
            )
        """,
        f"""
        select batch_id, format('in one commit %s comes after %s', later.type, earlier.type)
        from (select *, array_position(
            array[{ORDER}], type) as rank from event) as later
        join (select *, array_position(
            array[{ORDER}], type) as rank from event) as earlier
            using (batch_id, created_at)
        where later.seq > earlier.seq
            and later.rank < earlier.rank
        """,
        f"""
        select batch_id, format('in one commit slot %s comes after %s', later_slot.position, earlier_slot.position)
        from event as later
        join event as earlier using (batch_id, created_at)
        join els.slots as later_slot using (batch_id)
        join els.slots as earlier_slot using (batch_id)
        where later.type = '{SLOT_ASSIGNED}'
            and earlier.type = '{SLOT_ASSIGNED}'
            and later_slot.essay_id = later.data ->> 'essay_id'
            and earlier_slot.essay_id = earlier.data ->> 'essay_id'
            and later.seq > earlier.seq
            and later_slot.position < earlier_slot.position
        """,
        """
        select batch_id, format('%s is addressed to another batch or under another id', type)
        from event
        where event.data ->> 'batch_id' is distinct from batch_id
            or envelope ->> 'event_id' is distinct from id::text
            or envelope ->> 'event_type' is distinct from type
            or envelope ->> 'correlation_id' is distinct from correlation_id::text
        """,
    ),
    "I7 nothing is announced twice": (
        """
        select batch_id, format('%s is announced %s times', min(type), count(*))
        from event
        group by batch_id, id
        having count(*) > 1
        """,
    ),
}

# These hold only while the outbox has all its rows.
ANNOUNCEMENTS: Mapping[str, tuple[str, ...]] = {
    "I5 a batch is announced once": (
        f"""
        select batch_id, format('is %s and announced %s times as complete', state, announced)
        from (
            select batch_id, state, completed_at < cancelled_at as was_complete, (
                select count(*) from event where event.batch_id = batches.batch_id and event.type = '{COMPLETED}'
            ) as announced
            from els.batches
        ) as batches
        where announced <> (state in ('complete', 'ready') or was_complete)::int
        """,
        f"""
        select batch_id, format('is %s and announced %s times as ready', state, announced)
        from (
            select batch_id, state, (
                select count(*) from event where event.batch_id = batches.batch_id and event.type = '{READY}'
            ) as announced
            from els.batches
        ) as batches
        where announced <> case state when 'ready' then 1 else 0 end
        """,
        f"""
        select batch_id, format('is %s with %s failed and announced %s times with errors', state, failed, announced)
        from (
            select batch_id, state, failed, completed_at < cancelled_at as was_complete, (
                select count(*) from event where event.batch_id = batches.batch_id and event.type = '{ERRORS}'
            ) as announced
            from els.batches
        ) as batches
        where announced <> case
            when state = 'failed' or failed > 0 and (state in ('complete', 'ready') or was_complete) then 1 else 0
        end
        """,
        f"""
        select batch_id, format('is %s and announced %s times as cancelled', state, announced)
        from (
            select batch_id, state, (
                select count(*) from event where event.batch_id = batches.batch_id and event.type = '{CANCELLED}'
            ) as announced
            from els.batches
        ) as batches
        where announced <> (state = 'cancelled')::int
        """,
    ),
    "I6 what is so has its event": (
        f"""
        select batch_id, format('content %s in slot %s is announced %s times', text_storage_id, essay_id, announced)
        from (
            select batch_id, essay_id, text_storage_id, (
                select count(*)
                from event
                where event.batch_id = slots.batch_id
                    and event.type = '{SLOT_ASSIGNED}'
                    and event.data ->> 'text_storage_id' = slots.text_storage_id
            ) as announced
            from els.slots
            where state = 'assigned'
        ) as slots
        where announced <> 1
        """,
        f"""
        select batch_id, format('content %s is excess and announced %s times', text_storage_id, announced)
        from (
            select batch_id, text_storage_id, (
                select count(*)
                from event
                where event.batch_id = excess_content.batch_id
                    and event.type = '{EXCESS}'
                    and event.data ->> 'text_storage_id' = excess_content.text_storage_id
            ) as announced
            from els.excess_content
        ) as excess
        where announced <> 1
        """,
    ),
}


def _question(*rules: Mapping[str, tuple[str, ...]]) -> str:
    queries_by_rule = [
        f"select '{name}' as rule, found.* from ({query}) as found (batch_id, detail)"
        for group in rules
        for name, queries in group.items()
        for query in queries
    ]
    return """
        with event as materialized (
            select
                seq, event_id as id, batch_id, topic as type, created_at,
                (event::jsonb ->> 'correlation_id')::uuid as correlation_id,
                event::jsonb #>> '{metadata,traceparent}' as traceparent,
                event::jsonb #>> '{metadata,tracestate}' as tracestate,
                event::jsonb as envelope, event::jsonb -> 'data' as data
            from ops.outbox_events
        )
        """ + " union all ".join(queries_by_rule)


_WHOLE = _question(TABLES, EVENTS, ANNOUNCEMENTS)
_RELAYED = _question(TABLES, EVENTS)


def violations(conn: Connection, *, relayed: bool = False) -> list[str]:
    """Returns every violation as `rule: batch: detail`. With `relayed`, outbox rows may have been deleted."""
    rows = conn.execute(_RELAYED if relayed else _WHOLE, prepare=True).fetchall()  # planning takes the longest
    return sorted(f"{rule}: {batch_id}: {detail}" for rule, batch_id, detail in rows)


def missing(conn: Connection, events: Iterable[Incoming]) -> list[str]:
    """Returns which of the events are missing, if these are all that were delivered and all are applied."""
    batches: dict[str, list[Incoming]] = {}
    for event in events:
        batches.setdefault(event.batch_id, []).append(event)
    return [
        f"I8 nothing is lost: {batch_id}: {detail}"
        for batch_id, arrived in batches.items()
        for detail in _missing_of(conn, batch_id, arrived)
    ]


def _missing_of(conn: Connection, batch_id: str, arrived: list[Incoming]) -> Iterable[str]:
    registrations = [event for event in arrived if isinstance(event, BatchRegistered)]
    contents = {event.text_storage_id for event in arrived if isinstance(event, ContentProvisioned)}
    failures = {event.file_upload_id for event in arrived if isinstance(event, ValidationFailed)}

    def found(query: str) -> set[Any]:
        return {value for (value,) in conn.execute(query, [batch_id])}

    waiting = found("select text_storage_id from els.pending_content where batch_id = %s and state = 'pending'")
    assigned = found("select text_storage_id from els.slots where batch_id = %s and text_storage_id is not null")
    excess = found("select text_storage_id from els.excess_content where batch_id = %s")
    recorded = found("select file_upload_id from els.validation_failures where batch_id = %s")
    sets = found("select essay_set from els.batches where batch_id = %s")
    if waiting | assigned | excess != contents:
        yield f"contents {sorted(contents)} arrived; {waiting=} {assigned=} {excess=}"
    if recorded != failures:
        yield f"failures {sorted(failures)} arrived; {recorded=}"
    confirmed = found("select class_id from els.confirmations where batch_id = %s")
    waits_for = found("select class_id from els.batches where batch_id = %s and state = 'complete'")
    yield from _missing_confirmations(arrived, confirmed, waits_for)
    announced = {essay_set_of(registration.essay_ids) for registration in registrations}
    if bool(announced) != bool(sets) or not sets <= announced:
        yield "the batch is registered with a set that no registration has"
    rejected = found(
        "select fingerprint from els.quarantine"
        " where reason = 'conflicting_registration' and error like 'batch ' || %s || ' %%'"
    )
    if len(rejected) < len(announced - sets):
        yield f"{len(announced - sets)} registrations contradict the first, {len(rejected)} are rejected"
    if sets:
        taken = found("select essay_id from els.slots where batch_id = %s and state in ('assigned', 'failed')")
        slots = found("select essay_id from els.slots where batch_id = %s")
        ended = found("select batch_id from els.batches where batch_id = %s and withdrawn > 0")
        if not ended and len(taken) != min(len(slots), len(contents) + len(failures)):
            yield f"{len(taken)} of {len(slots)} slots are taken; {contents=} {failures=}"


def _missing_confirmations(arrived: Iterable[Incoming], stored: set[str], waits_for: set[str]) -> Iterable[str]:
    classes = {event.class_id for event in arrived if isinstance(event, AssociationsConfirmed)}
    if stored != classes:
        yield f"confirmations {sorted(classes)} arrived; {stored=}"
    for class_id in waits_for:
        if classes & {class_id, ""}:
            yield f"it waits for the confirmation of {class_id}, and {sorted(classes)} arrived"


_STATE = """
    select 'batches', b::text from els.batches as b
    union all select 'slots', s::text from els.slots as s
    union all select 'pending_content', p::text from els.pending_content as p
    union all select 'excess_content', e::text from els.excess_content as e
    union all select 'validation_failures', v::text from els.validation_failures as v
    union all select 'confirmations', c::text from els.confirmations as c
    union all select 'outbox', o::text from els.unpublished as o
    union all select 'quarantine', row(topic, fingerprint, state, reason)::text from els.quarantine
"""


def state(conn: Connection) -> list[tuple[str, str]]:
    """Returns every row that a repeat must not change."""
    return sorted(conn.execute(_STATE).fetchall())
