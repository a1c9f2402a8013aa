-- Shows each event that is still to be published, in full. Reads the whole outbox, which may be large; where a batch is
-- given, only its rows (indexes outbox_pages_batch, outbox_pkey).

create view ops.outbox_events as
select
    unpublished.batch_id,
    unpublished.seq,
    line.number,
    split_part(line.event, '"', 8) as topic,
    split_part(line.event, '"', 4)::uuid as event_id,
    line.event,
    unpublished.created_at
from els.unpublished
cross join lateral string_to_table(unpublished.events, E'\n') with ordinality as line (event, number);

comment on view ops.outbox_events is
    'Each event that is not published yet; the events of a batch are published in the order of seq and number.';
comment on column ops.outbox_events.batch_id is 'the batch, which is the key of the record';
comment on column ops.outbox_events.seq is 'number of its row in the outbox';
comment on column ops.outbox_events.number is 'place within the row, from 1';
comment on column ops.outbox_events.topic is 'the topic, which is also the type of the event';
comment on column ops.outbox_events.event_id is 'identity of the event';
comment on column ops.outbox_events.event is 'the event as it is published, JSON';
comment on column ops.outbox_events.created_at is 'when its transaction began';
