-- What must be published, numbered in the order given. The caller holds the deciding row of every batch here, or has
-- the batch alone where it is not registered yet, so within a batch the numbers stand in the order of commits.
-- Index: outbox_pkey, outbox_order. Locks: the new rows.
insert into els.outbox (id, aggregateid, type, payload, correlation_id, traceparent, tracestate)
select id, aggregateid, type, payload, correlation_id, traceparent, tracestate
from unnest(
    :ids::uuid[], :batch_ids::text[], :topics::text[], :payloads::text[], :correlation_ids::uuid[],
    :traceparents::text[], :tracestates::text[]
) as event (id, aggregateid, type, payload, correlation_id, traceparent, tracestate)
