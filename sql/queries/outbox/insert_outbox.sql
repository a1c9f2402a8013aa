-- Inserts events that must be published, numbered in the order given. The caller holds the counter row of every batch
-- here, or the exclusive lock of a batch that is not registered yet, so within a batch the numbers follow the order of
-- commits.
-- Index: outbox_pkey, outbox_order. Locks: the new rows.
insert into els.outbox (id, aggregateid, type, payload, correlation_id, traceparent, tracestate)
select id, aggregateid, type, payload, correlation_id, traceparent, tracestate
from unnest(
    :ids::uuid[], :batch_ids::text[], :topics::text[], :payloads::text[], :correlation_ids::uuid[],
    :traceparents::text[], :tracestates::text[]
) as event (id, aggregateid, type, payload, correlation_id, traceparent, tracestate)
