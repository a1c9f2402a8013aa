"""Plants rows by SQL functions of one session, so that a test of a view says what it plants and nothing else."""

from typing import Any

from psycopg import Connection

# Functions of this session only, so that a test says what it plants and nothing else.
PLANT = """
set check_function_bodies = off;
create function pg_temp.batch(id text, of integer, taken integer, lost integer default 0) returns void
language sql as $$
    insert into els.batches (
        batch_id, expected, assigned, failed, state, essay_set, course_code, user_id, essay_instructions,
        correlation_id, registered_at, changed_at, completed_at
    ) values (
        id, of, taken, lost,
        case when taken + lost < of then 'registered' when taken > 0 then 'ready' else 'failed' end,
        sha256(id::bytea), 'ENG5', 'teacher', '', gen_random_uuid(), now(), now(),
        case when taken + lost = of then now() end
    );
    insert into els.slots (batch_id, essay_id, position)
    select id, 'e' || n, n from generate_series(1, of) as n;
    select pg_temp.fill(id, 'e' || n, 't' || n) from generate_series(1, taken) as n;
    select pg_temp.fail(id, 'e' || n, 'u' || n) from generate_series(taken + 1, taken + lost) as n;
$$;
create function pg_temp.fill(batch text, essay text, content text) returns void language sql as $$
    update els.slots
    set state = 'assigned', text_storage_id = content, file_upload_id = 'up', original_file_name = 'a.txt',
        raw_file_storage_id = 'raw', file_size_bytes = 1, content_md5_hash = 'md5',
        correlation_id = gen_random_uuid(), taken_at = now()
    where batch_id = batch and essay_id = essay;
$$;
create function pg_temp.failure(batch text, upload text, kind text) returns void language sql as $$
    insert into els.validation_failures (
        batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id,
        validation_error_code, error_detail, file_size_bytes, failed_at, correlation_id, stored_at,
        waiting_since, closed_at
    ) values (
        batch, upload, nextval('els.arrivals'), kind, 'bad.txt', 'raw', 'EMPTY_CONTENT',
        '{"message": "nothing in it"}', 0, now(), gen_random_uuid(), now(), now(),
        case when kind = 'expired' then now() end
    );
$$;
create function pg_temp.fail(batch text, essay text, upload text) returns void language sql as $$
    update els.slots
    set state = 'failed', file_upload_id = upload, taken_at = now()
    where batch_id = batch and essay_id = essay;
    select pg_temp.failure(batch, upload, 'slot');
$$;
create function pg_temp.pending(batch text, content text, kind text default 'pending') returns void
language sql as $$
    insert into els.pending_content (
        batch_id, text_storage_id, arrival, state, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, stored_at, waiting_since, closed_at
    ) values (
        batch, content, nextval('els.arrivals'), kind, 'up', 'early.txt', 'raw', 1, 'md5',
        gen_random_uuid(), now(), now(), case when kind <> 'pending' then now() end
    );
$$;
create function pg_temp.excess(batch text, content text) returns void language sql as $$
    insert into els.excess_content (
        batch_id, text_storage_id, reason, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, declared_at
    ) values (
        batch, content, 'BATCH_FULL', 'up', 'late.txt', 'raw', 1, 'md5', gen_random_uuid(), now()
    );
$$;
create function pg_temp.envelope(topic text) returns text language sql as $$
    select format('{"event_id":"%s","event_type":"%s"}', gen_random_uuid(), topic);
$$;
create function pg_temp.event(batch text, topic text) returns void language sql as $$
    insert into els.outbox_pages (batch_id, topics, events)
    values (batch, jsonb_build_object(topic, 1), pg_temp.envelope(topic));
$$;
create function pg_temp.old_event(batch text, topic text, age interval) returns void language sql as $$
    insert into els.outbox_pages (batch_id, topics, events, created_at)
    values (batch, jsonb_build_object(topic, 1), pg_temp.envelope(topic), now() - age);
$$;
create function pg_temp.live() returns void language sql as $$
    insert into els.relays values (gen_random_uuid(), now() + interval '1 minute', true);
    select pg_temp.pod();
$$;
create function pg_temp.pod(
    roles text[] default '{consumer,relay,purge}', seen interval default '1 s', not_ready interval default null,
    error text default null, broker_error text default null, lag bigint default 0, idle interval default '0 s'
) returns void language sql as $$
    insert into els.pods (
        pod, host, release, roles, seen_at, errors, not_ready_since, broker_error, broker_away_since, lag, applied_at
    ) values (
        gen_random_uuid(), 'host', '1', roles, now() - seen, array_remove(array[error], null), now() - not_ready,
        broker_error, '2026-01-02T03:04:05Z'::timestamptz + not_ready - not_ready, lag, now() - idle
    );
$$;
create function pg_temp.lost(topic text) returns void language sql as $$
    insert into els.lost_inputs (topic, partition, first_offset, next_offset, cause) values (topic, 0, 1, 3, 'deleted');
$$;
create function pg_temp.age(by interval) returns void language sql as $$
    update els.pending_content set stored_at = now() - by, waiting_since = now() - by;
$$;
create function pg_temp.rejected(topic text, value bytea) returns void language sql as $$
    insert into els.quarantine (
        topic, fingerprint, "partition", "offset", key, value, reason, error, first_seen_at, last_seen_at
    ) values (topic, sha256(value), 3, 42, 'key', value, 'not_json', 'no JSON', now(), now());
$$;
"""

MANY_WAIT = (
    "insert into els.pending_content (batch_id, text_storage_id, arrival, file_upload_id, original_file_name,"
    " raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, stored_at, waiting_since)"
    " select 'waits' || n % {batches}, 't' || n, n, 'up', 'a', 'raw', 1, 'md5', gen_random_uuid(), now(), now()"
    " from generate_series(1, {contents}) as n"
)

MANY_EVENTS = (
    "insert into els.outbox_pages (batch_id, topics, events)"
    """ select 'b' || n, '{{"topic": 1}}', '{{}}' from generate_series(1, {events}) as n"""
)


def rows(database: Connection[dict[str, Any]], query: str) -> list[dict[str, Any]]:
    return database.execute(query.encode()).fetchall()


def row(database: Connection[dict[str, Any]], query: str) -> dict[str, Any]:
    (only,) = rows(database, query)
    return only


def plant(database: Connection[dict[str, Any]], *calls: str) -> None:
    """Each is one of the functions above with its arguments, or a statement."""
    for call in calls:
        statement = call if " " in call.split("(")[0] else f"select pg_temp.{call}"
        database.execute(statement.encode())
