-- Shows batches whose next event could not be published. Their rows are found by outbox_pages_batch and outbox_pkey.

create view ops.outbox_blocked as
select
    blocked.batch_id,
    blocked.topic,
    greatest(held.events - blocked.acknowledged, 0) as rows,
    els.shown_lines(blocked.error) as error,
    blocked.since,
    blocked.retry_at,
    blocked.seq
from els.own_outbox_blocked as blocked
cross join lateral (
    select coalesce(sum(topic.events), 0)::bigint as events
    from els.own_unpublished as unpublished
    cross join lateral els.topic_events(unpublished.topics) as topic
    where unpublished.batch_id = blocked.batch_id
) as held;

comment on view ops.outbox_blocked is
    'Each batch whose next event could not be published; other batches are not affected.';
comment on column ops.outbox_blocked.batch_id is 'the batch';
comment on column ops.outbox_blocked.topic is 'topic of the event that could not be published';
comment on column ops.outbox_blocked.rows is 'events of the batch that are held back, this one included';
comment on column ops.outbox_blocked.error is 'the error of the broker or its client';
comment on column ops.outbox_blocked.since is 'when it first could not be published';
comment on column ops.outbox_blocked.retry_at is 'when it is tried again';
comment on column ops.outbox_blocked.seq is 'number of the row in the outbox that has this event';
