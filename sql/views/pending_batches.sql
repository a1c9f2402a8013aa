-- Shows which registrations are missing. Indexes pending_content_due and validation_failures_due: only
-- rows that wait are read.

create view ops.pending_batches as
with waiting as (
    select batch_id, stored_at, true as is_content
    from els.own_pending_content as pending_content
    where state = 'pending'
    union all
    select batch_id, stored_at, false
    from els.own_validation_failures as validation_failures
    where state = 'pending'
)
select
    batch_id,
    count(*) filter (where is_content) as items,
    count(*) filter (where not is_content) as failures,
    min(stored_at) as oldest,
    max(stored_at) as newest,
    now() - min(stored_at) as age
from waiting
group by batch_id;

comment on view ops.pending_batches is
    'Each batch whose uploads wait for its registration.';
comment on column ops.pending_batches.batch_id is 'the batch that is not registered yet';
comment on column ops.pending_batches.items is 'contents that wait';
comment on column ops.pending_batches.failures is 'validation failures that wait';
comment on column ops.pending_batches.oldest is 'when the first of them was stored';
comment on column ops.pending_batches.newest is 'when the last of them was stored';
comment on column ops.pending_batches.age is 'time since oldest';
