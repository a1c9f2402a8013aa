-- Inserts rows of events that must be published (three arrays in step), numbered in the order given. The caller holds
-- the counter row of every batch here, or the exclusive lock of a batch that is not registered yet, so within a batch
-- the numbers follow the order of commits.
-- While a relay of the previous release may run, it inserts a row for each event in the table that such a relay reads.
-- Index: outbox_pages_pkey, outbox_pages_batch. Locks: the new rows.
with events as (
    insert into els.outbox (id, aggregateid, type, payload, correlation_id, traceparent, tracestate)
    select
        (envelope.json ->> 'event_id')::uuid,
        page.batch_id,
        envelope.json ->> 'event_type',
        line.event,
        (envelope.json ->> 'correlation_id')::uuid,
        envelope.json #>> '{metadata,traceparent}',
        envelope.json #>> '{metadata,tracestate}'
    from unnest(:batch_ids::text[], :events::text[]) as page (batch_id, events)
    cross join lateral string_to_table(page.events, E'\n') as line (event)
    cross join lateral (select line.event::json) as envelope (json)
    where not coalesce((select pages from els.outbox_format), true)
)
insert into els.outbox_pages (batch_id, topics, events)
select page.batch_id, page.topics::jsonb, page.events
from unnest(:batch_ids::text[], :topics::text[], :events::text[]) as page (batch_id, topics, events)
where coalesce((select pages from els.outbox_format), true)
