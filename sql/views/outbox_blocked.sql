-- Shows batches whose next event could not be published. Their rows are counted by the primary key of the outbox.

create view ops.outbox_blocked as
select
    blocked.batch_id,
    blocked.topic,
    held.rows,
    blocked.error,
    blocked.since,
    blocked.retry_at,
    blocked.seq
from els.outbox_blocked as blocked
cross join lateral (
    select count(*) as rows
    from els.outbox
    where outbox.aggregateid = blocked.batch_id
) as held;

comment on view ops.outbox_blocked is
    'Each batch whose next event could not be published; other batches are not affected.';
comment on column ops.outbox_blocked.batch_id is 'the batch';
comment on column ops.outbox_blocked.topic is 'topic of the event that could not be published';
comment on column ops.outbox_blocked.rows is 'events of the batch that are held back, this one included';
comment on column ops.outbox_blocked.error is 'the error of the broker or its client';
comment on column ops.outbox_blocked.since is 'when it first could not be published';
comment on column ops.outbox_blocked.retry_at is 'when it is tried again';
comment on column ops.outbox_blocked.seq is 'number of that event in the outbox';
