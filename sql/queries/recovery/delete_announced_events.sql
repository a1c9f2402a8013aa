-- Deletes events from the outbox by their ids (two arrays in step): topics contain them already, or what they announce
-- is decided anew. Returns how many, and what is left of rows that have other events, too: keep_other_events inserts
-- it. A batch that is blocked is not blocked any more: the number of events that are acknowledged would be that of
-- another row. The places of ids and topics in an event: service/domain/enveloped.py (`_HEAD`).
-- Index: outbox_pages_batch, outbox_pkey, outbox_blocked_pkey. Locks: the rows.
with gone as (
    select distinct batch_id, event_id
    from unnest(:batch_ids::text[], :event_ids::text[]) as gone (batch_id, event_id)
),
lines as materialized (
    select
        outbox_pages.seq,
        outbox_pages.batch_id,
        line.number,
        line.event,
        gone.event_id is not null as is_gone
    from els.outbox_pages
    cross join lateral string_to_table(outbox_pages.events, E'\n') with ordinality as line (event, number)
    left join gone
        on gone.batch_id = outbox_pages.batch_id
        and gone.event_id = substr(line.event, 14, 36)
    where outbox_pages.batch_id = any(array(select batch_id from gone))
),
pages as materialized (
    select
        seq,
        batch_id,
        string_agg(event, E'\n' order by number) filter (where not is_gone) as events,
        count(*) filter (where is_gone) as deleted
    from lines
    group by seq, batch_id
    having bool_or(is_gone)
),
topics as (
    select seq, jsonb_object_agg(topic, events) as topics
    from (
        select seq, substring(event from '"event_type":"([^"]+)"') as topic, count(*) as events
        from lines
        where not is_gone
        group by 1, 2
    ) as counted
    group by seq
),
deleted as (
    delete from els.outbox_pages
    using pages
    where outbox_pages.seq = pages.seq
    returning outbox_pages.seq, outbox_pages.batch_id, outbox_pages.created_at
),
unblocked as (
    delete from els.outbox_blocked
    using pages
    where outbox_blocked.batch_id = pages.batch_id
),
previous as (
    delete from els.outbox
    using gone
    where outbox.aggregateid = gone.batch_id
        and outbox.id::text = gone.event_id
    returning 1
)
select
    (coalesce((select sum(pages.deleted) from pages), 0) + (select count(*) from previous))::bigint as events,
    kept.seq,
    kept.batch_id,
    kept.topics,
    kept.events,
    kept.created_at
from (select) as always
left join (
    select deleted.seq, deleted.batch_id, topics.topics::text as topics, pages.events, deleted.created_at
    from deleted
    inner join pages on pages.seq = deleted.seq
    inner join topics on topics.seq = deleted.seq
) as kept on true
