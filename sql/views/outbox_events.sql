-- Shows each event that is still to be published, in full. Reads the whole outbox, which may be large; where a batch is
-- given, only its rows (indexes outbox_pages_batch, outbox_pkey).

create view ops.outbox_events as
select
    unpublished.batch_id,
    unpublished.seq * 1000 + line.number - 1 as seq,
    split_part(line.event, '"', 8) as topic,  -- an envelope begins with its event_id and its event_type
    split_part(line.event, '"', 4) as event_id,
    els.safe_json(line.event) as event,
    unpublished.created_at
from els.own_unpublished as unpublished
cross join lateral string_to_table(unpublished.events, E'\n') with ordinality as line (event, number);

comment on view ops.outbox_events is
    'Each event that is not published yet; the events of a batch are published in the order of seq.';
comment on column ops.outbox_events.batch_id is 'the batch, which is the key of the record';
comment on column ops.outbox_events.seq is 'its number, as in the header seq of the record: that of its row in the outbox, times 1,000, plus its place there';
comment on column ops.outbox_events.topic is 'the topic, which is also the type of the event';
comment on column ops.outbox_events.event_id is 'identity of the event';
comment on column ops.outbox_events.event is 'the event as it is published, JSON';
comment on column ops.outbox_events.created_at is 'when its transaction began';
