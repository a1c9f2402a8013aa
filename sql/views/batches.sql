-- Shows the state of each batch. One batch is found by the primary key; without a condition, all batches are read.

create view ops.batches as
select
    batch_id,
    state,
    expected,
    assigned,
    failed,
    expected - assigned - failed - withdrawn as open,
    registered_at,
    case when state = 'ready' then coalesce(ready_announced_at, completed_at) end as ready_at,
    now() - registered_at as age,
    course_code,
    user_id,
    class_id,
    org_id,
    correlation_id,
    completed_at,
    timed_out_at,
    changed_at,
    confirmed_at,
    withdrawn,
    cancelled_at,
    cancel_reason,
    erased_at
from els.own_batches as batches;

comment on view ops.batches is
    'Each batch that is registered, with its counters.';
comment on column ops.batches.batch_id is 'the batch, as the Batch Orchestrator Service names it';
comment on column ops.batches.state is 'registered: waits for uploads; complete: no slot is open, and it waits for the confirmation of its class; ready: announced as ready; failed: no slot holds a content, and none is open; cancelled: by an operator';
comment on column ops.batches.expected is 'slots of the batch';
comment on column ops.batches.assigned is 'slots that hold a content';
comment on column ops.batches.failed is 'slots that hold a validation failure';
comment on column ops.batches.open is 'slots that are open';
comment on column ops.batches.registered_at is 'when its registration was committed';
comment on column ops.batches.ready_at is 'when it was announced as ready; null unless it was';
comment on column ops.batches.age is 'time since registered_at';
comment on column ops.batches.course_code is 'course of the essays, as registered';
comment on column ops.batches.user_id is 'who uploads, as registered';
comment on column ops.batches.class_id is 'class, where the registration names one';
comment on column ops.batches.org_id is 'organisation, where the registration names one';
comment on column ops.batches.correlation_id is 'correlation id of the registration';
comment on column ops.batches.completed_at is 'when its last slot was taken or withdrawn, whether it became complete, ready, failed or cancelled';
comment on column ops.batches.timed_out_at is 'when it was reported as late; null unless it was';
comment on column ops.batches.changed_at is 'when one of its counters or its state last changed';
comment on column ops.batches.confirmed_at is 'when the confirmation of its class was applied; null unless it was';
comment on column ops.batches.withdrawn is 'slots that were open when an operator closed or cancelled it';
comment on column ops.batches.cancelled_at is 'when an operator cancelled it; null unless it is cancelled. Later than completed_at where it was complete before';
comment on column ops.batches.cancel_reason is 'why: WRONG_REGISTRATION, WITHDRAWN, DUPLICATE or OTHER; null unless it is cancelled';
comment on column ops.batches.erased_at is 'when personal data of it, or of one of its uploads, was erased last; null unless it was';
