-- Inserts one event of many megabytes, numbered as insert_outbox does. A parameter of its own is sent as it is; in an
-- array it would be copied first.
-- Index: outbox_pkey, outbox_order. Locks: the new row.
insert into els.outbox (id, aggregateid, type, payload, correlation_id, traceparent, tracestate)
values (
    :id::uuid, :batch_id::text, :topic::text, :payload::text, :correlation_id::uuid,
    :traceparent::text, :tracestate::text
)
