"""Fills a database with what a service has stored after a long time, by a few statements, for what reads much of it."""

from typing import Any, Final

import psycopg
import uvloop

from benchmarks import servers
from service.postgres.pool import Database
from service.store import search

EACH: Final = 25
"""Slots of a batch."""

AT_A_TIME: Final = 20_000
"""Batches that one statement inserts."""

# Names of files as persons give them: of 26 x 2,048 persons, so that half a name is in few batches or in many.
FILE_NAME: Final = """
    create function pg_temp.file_name(n integer) returns text
    language sql immutable parallel safe
    return (
        array['Åsa','Anna','Björn','Carl','Dilan','Elsa','Fatima','Göran','Hugo','Ines','Johan','Karin','Linnéa',
        'Mohamed','Nils','Olivia','Pia','Rasmus','Sara','Tove','Ulf','Vera','William','Yusuf','Zara','Örjan']
    )[1 + (n & 65535) % 26]
    || ' ' || initcap(translate(left(md5(((n & 65535) % 2048)::text), 7), '0123456789', 'aeiouåäönr'))
    || ' uppsats ' || (n & 65535) % 7 || '.docx'
"""

BATCHES: Final = """
    insert into els.batches (
        batch_id, expected, assigned, failed, state, essay_set, course_code, user_id, essay_instructions, class_id,
        org_id, correlation_id, registered_at, changed_at, completed_at, timed_out_at, ready_announced_at
    )
    select
        md5('batch ' || n)::uuid::text, 25, case when n %% 50 = 0 then 20 else 24 end, 1,
        case n %% 50 when 0 then 'registered' when 1 then 'complete' else 'ready' end, sha256('x'), 'ENG5',
        'user-' || n %% 20000, 'Write about a book.', case when n %% 50 = 1 then 'class-' || n end, 'org-' || n %% 300,
        md5('correlation ' || n)::uuid, at, at + interval '20 minutes',
        case when n %% 50 <> 0 then at + interval '20 minutes' end,
        case when n %% 100 = 0 then at + interval '1 day' end,
        case when n %% 50 > 1 then at + interval '20 minutes' end
    from (
        select n, now() - (%(all)s - n) * interval '365 days' / %(all)s - interval '1 minute' as at
        from generate_series(%(first)s::int, %(last)s::int) as n
    ) as numbered
"""

SLOTS: Final = """
    insert into els.slots (
        batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, taken_at
    )
    select
        batch_id, md5(id || ' essay')::uuid::text, p, state,
        case when state = 'assigned' then md5(id || ' text')::uuid::text end,
        case when state <> 'open' then md5(id || ' upload')::uuid::text end,
        case when state = 'assigned' then pg_temp.file_name(h) end,
        case when state = 'assigned' then 'raw-' || md5(id) end,
        case when state = 'assigned' then 18244 end,
        case when state = 'assigned' then md5(id) end,
        case when state = 'assigned' then md5(id || ' correlation')::uuid end,
        case when state <> 'open' then registered_at + p * interval '40 seconds' end
    from (
        select
            batch_id, p, registered_at, batch_id || ' ' || p as id, hashtext(batch_id || p) as h,
            case when p = 25 then 'failed' when p <= assigned then 'assigned' else 'open' end as state
        from (
            select md5('batch ' || n)::uuid::text as batch_id
            from generate_series(%(first)s::int, %(last)s::int) as n
        ) as page
        inner join els.batches using (batch_id)
        cross join generate_series(1, 25) as p
    ) as named
"""

FAILURES: Final = """
    insert into els.validation_failures (
        batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id, validation_error_code,
        error_detail, file_size_bytes, failed_at, correlation_id, stored_at, waiting_since
    )
    select
        batch_id, file_upload_id, nextval('els.arrivals'), 'slot', pg_temp.file_name(hashtext(file_upload_id)),
        'raw', 'EMPTY_CONTENT', '{"message": "nothing in it"}', 0, taken_at, gen_random_uuid(), taken_at, taken_at
    from els.slots
    where batch_id in (
            select md5('batch ' || n)::uuid::text
            from generate_series(%(first)s::int, %(last)s::int) as n
        )
        and state = 'failed'
"""

# Twenty for each batch; every tenth batch is expired.
PENDING: Final = """
    insert into els.pending_content (
        batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
        content_md5_hash, correlation_id, stored_at, waiting_since, state, closed_at
    )
    select
        md5('waiting ' || n / 20)::uuid::text, md5('waiting text ' || n)::uuid::text, nextval('els.arrivals'),
        md5('waiting upload ' || n)::uuid::text, pg_temp.file_name(hashtext(n::text)), 'raw-' || n, 18244,
        md5(n::text), gen_random_uuid(), now() - n * interval '0.5 seconds', now() - n * interval '0.5 seconds',
        case when n / 20 %% 10 = 0 then 'expired' else 'pending' end, case when n / 20 %% 10 = 0 then now() end
    from generate_series(1, %(pending)s::int * 10 / 9) as n
"""

WAITING_FAILURES: Final = """
    insert into els.validation_failures (
        batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id, validation_error_code,
        error_detail, file_size_bytes, failed_at, correlation_id, stored_at, waiting_since
    )
    select
        md5('waiting ' || n / 2)::uuid::text, md5('waiting failure ' || n)::uuid::text, nextval('els.arrivals'),
        'pending', pg_temp.file_name(hashtext(n::text)), 'raw', 'EMPTY_CONTENT', '{"message": "nothing in it"}', 0,
        now(), gen_random_uuid(), now() - n * interval '0.5 seconds', now() - n * interval '0.5 seconds'
    from generate_series(1, %(pending)s::int / 10) as n
"""

# Rejected inputs of some 1.2 kB; two of three name their batch, one of six has an escape in its file name.
QUARANTINE: Final = """
    insert into els.quarantine (
        topic, fingerprint, "partition", "offset", key, value, headers, reason, error, first_seen_at, last_seen_at,
        batch_id, original_file_name, correlation_id, state, closed_at
    )
    select
        case n %% 5
            when 0 then 'huleedu.batch.essays.registered.v1' else 'huleedu.file.essay.content.provisioned.v1'
        end,
        sha256(n::text::bytea), n %% 12, n, convert_to(md5('rejected ' || n / 3), 'UTF8'),
        convert_to(
            json_build_object(
                'event_id', gen_random_uuid(), 'event_type', 'huleedu.file.essay.content.provisioned.v1',
                'source_service', 'file_service', 'data', json_build_object(
                    'batch_id', md5('rejected ' || n / 3), 'file_upload_id', md5('rejected upload ' || n),
                    'original_file_name', name, 'file_size_bytes', 'many', 'filler', repeat('lorem ipsum ', 60)
                )
            )::text || case when n %% 6 = 0 then '\\u00c5' else '' end,
            'UTF8'
        ),
        '[]', (array['invalid_field', 'missing_field', 'not_json', 'invalid_field'])[1 + n %% 4],
        'data.file_size_bytes: Input should be a valid integer', at, at,
        case when n %% 3 > 0 then md5('rejected ' || n / 3) end, case when n %% 3 > 0 then name end,
        gen_random_uuid(), case when n %% 10 = 0 then 'replayed' else 'open' end, case when n %% 10 = 0 then now() end
    from (
        select n, now() - (50000 - n) * interval '1 minute' as at, pg_temp.file_name(hashtext(n::text)) as name
        from generate_series(1, %(quarantined)s::int * 10 / 9) as n
    ) as numbered
"""

OTHERS: Final = (
    """
    insert into els.operator_actions (at, who, action, batch_id, topic, why, details)
    select
        now() - n * interval '10 minutes', 'person ' || n % 40,
        (array['pending remove', 'quarantine replay', 'batches close', 'pending clear'])[1 + n % 4],
        md5('batch ' || n)::uuid::text, null, 'for a reason', '{"contents": 3}'
    from generate_series(1, 50000) as n
    """,
    """
    insert into els.outbox_pages (batch_id, topics, events, created_at)
    select md5('batch ' || n)::uuid::text, '{"huleedu.els.essay.slot.assigned.v1": 3}', repeat('x', 2000), now()
    from generate_series(1, 5000) as n
    """,
    """
    insert into els.outbox_blocked (batch_id, topic, seq, error, since, retry_at)
    select batch_id, 'huleedu.els.essay.slot.assigned.v1', seq, 'too large', now(), now()
    from els.outbox_pages
    limit 100
    """,
    """
    insert into els.progress (topic, "partition", next_offset, record_at, applied_until)
    select topic, p, 1000000, now(), now()
    from unnest(array['huleedu.batch.essays.registered.v1', 'huleedu.file.essay.content.provisioned.v1',
        'huleedu.file.essay.validation.failed.v1', 'huleedu.class.student.associations.confirmed.v1']) as topic
    cross join generate_series(0, 11) as p
    """,
    """
    insert into els.lost_inputs (topic, "partition", first_offset, next_offset, cause)
    select 'huleedu.batch.essays.registered.v1', 0, n * 10, n * 10 + 2, 'deleted'
    from generate_series(1, 200) as n
    """,
)


def fill(url: str, slots: int, pending: int, quarantined: int) -> None:
    """Fill the tables, and those that a search reads as the purge would."""
    batches = slots // EACH
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("set synchronous_commit = off")
        conn.execute(FILE_NAME.encode())
        for first in range(0, batches, AT_A_TIME):
            page = {"first": first, "last": min(first + AT_A_TIME, batches) - 1, "all": batches}
            for statement in (BATCHES, SLOTS, FAILURES):
                conn.execute(statement, page)
        for statement in (PENDING, WAITING_FAILURES, QUARANTINE):
            conn.execute(statement, {"pending": pending, "quarantined": quarantined})
        for statement in OTHERS:
            conn.execute(statement)
        servers.analyzed(conn)
        uvloop.run(_index(url))
        servers.analyzed(conn)


async def _index(url: str) -> None:
    database: Any = Database(url, pool_size=1)
    try:
        indexed = True
        while indexed:
            async with database.transaction() as conn:
                indexed = bool(await search.index_changes(conn))
    finally:
        await database.close()
