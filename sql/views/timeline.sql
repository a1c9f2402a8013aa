-- Shows what happened to a batch: give its `batch_id`, and `order by at, step`. Each part is found by an index: the primary
-- keys, quarantine_batch and operator_actions_batch. Without a condition on `batch_id`, all tables are read.
-- What a recovery wrote as it was announced has no row for its wait, nor has what an earlier release reconciled.

create view ops.timeline as
select
    batch_id,
    registered_at as at,
    1 as step,
    'registered' as what,
    null::text as text_storage_id,
    null::text as file_upload_id,
    null::text as essay_id,
    null::text as original_file_name,
    concat(expected, ' slots, ', course_code, ', user ', els.shown(left(user_id, 255))) as details,
    null::text as who,
    correlation_id,
    split_part(traceparent, '-', 2) as trace_id,
    'batches' as source
from els.own_batches as batches
union all
select
    batch_id, completed_at, 8,
    case state when 'failed' then 'batch failed' else 'completed' end,
    null, null, null, null,
    concat(assigned, ' assigned, ', failed, ' failed, ', withdrawn, ' withdrawn, of ', expected), null, correlation_id,
    split_part(traceparent, '-', 2), 'batches'
from els.own_batches as batches
where completed_at is not null
    and (cancelled_at is null or completed_at < cancelled_at)
union all
select
    batch_id, cancelled_at, 9, 'cancelled', null, null, null, null, cancel_reason, null, correlation_id,
    split_part(traceparent, '-', 2), 'batches'
from els.own_batches as batches
where cancelled_at is not null
union all
select
    batch_id, coalesce(ready_announced_at, completed_at), 9, 'announced', null, null, null, null,
    'BatchEssaysReady is written to the outbox', null, correlation_id, split_part(traceparent, '-', 2), 'batches'
from els.own_batches as batches
where state = 'ready'
union all
select
    batch_id, timed_out_at, 10, 'timed out', null, null, null, null, 'BatchReadinessTimeout is written to the outbox',
    null, correlation_id, split_part(traceparent, '-', 2), 'batches'
from els.own_batches as batches
where timed_out_at is not null
union all
select
    batch_id, stored_at, 2, case state when 'applied' then 'confirmed' else 'confirmation ' || state end, null, null,
    null, null, concat('class ', els.shown(class_id), ', ', associations, ' associations'), null, correlation_id,
    split_part(traceparent, '-', 2), 'confirmations'
from els.own_confirmations as confirmations
union all
select
    batch_id, taken_at, 4, 'assigned', text_storage_id, file_upload_id, essay_id, els.shown(original_file_name),
    concat('slot ', position), null, correlation_id, split_part(traceparent, '-', 2), 'slots'
from els.own_slots as slots
where state = 'assigned'
union all
select
    slots.batch_id, slots.taken_at, 5, 'failed', null, slots.file_upload_id, slots.essay_id,
    els.shown(failure.original_file_name),
    concat('slot ', slots.position, ': ', failure.code, ', ', els.shown_lines(left(failure.message, 1000))), null,
    coalesce(slots.correlation_id, failure.correlation_id), split_part(failure.traceparent, '-', 2), 'slots'
from els.own_slots as slots
left join lateral (
    select
        known.original_file_name, els.shown(known.validation_error_code) as code,
        known.error_detail ->> 'message' as message, known.correlation_id, known.traceparent
    from els.own_validation_failures as known
    where known.batch_id = slots.batch_id
        and known.file_upload_id = slots.file_upload_id
    limit 1
) as failure on true
where slots.state = 'failed'
union all
select
    batch_id, declared_at, 6, 'excess', text_storage_id, file_upload_id, null, els.shown(original_file_name), reason,
    null, correlation_id, split_part(traceparent, '-', 2), 'excess_content'
from els.own_excess_content as excess_content
union all
select
    slots.batch_id, wait.at, wait.step, wait.what, slots.text_storage_id, slots.file_upload_id, null,
    els.shown(slots.original_file_name), wait.details, null, slots.correlation_id, split_part(slots.traceparent, '-', 2),
    'slots'
from els.own_slots as slots
cross join lateral els.waits(slots.pending_at, slots.history) as wait
where slots.pending_at is not null
union all
select
    excess.batch_id, wait.at, wait.step, wait.what, excess.text_storage_id, excess.file_upload_id, null,
    els.shown(excess.original_file_name), wait.details, null, excess.correlation_id,
    split_part(excess.traceparent, '-', 2), 'excess_content'
from els.own_excess_content as excess
cross join lateral els.waits(excess.pending_at, excess.history) as wait
where excess.pending_at is not null
union all
select
    pending.batch_id, wait.at, wait.step, wait.what, pending.text_storage_id, pending.file_upload_id, null,
    els.shown(pending.original_file_name), wait.details, null, pending.correlation_id,
    split_part(pending.traceparent, '-', 2), 'pending_content'
from els.own_pending_content as pending
cross join lateral els.waits(pending.stored_at, pending.history) as wait
union all
select
    batch_id, waiting_since, 7, 'restored', text_storage_id, file_upload_id, null, els.shown(original_file_name),
    'by an earlier release', null, correlation_id, split_part(traceparent, '-', 2), 'pending_content'
from els.own_pending_content as pending_content
where history is null
    and waiting_since > stored_at
union all
select
    pending.batch_id, pending.closed_at, 7, pending.state, pending.text_storage_id, pending.file_upload_id, null,
    els.shown(pending.original_file_name),
    case pending.state when 'expired' then 'the registration did not come in time' else done.why end, done.who,
    pending.correlation_id, split_part(pending.traceparent, '-', 2), 'pending_content'
from els.own_pending_content as pending
left join lateral (
    select els.shown(actions.who) as who, els.shown_lines(actions.why) as why
    from els.own_operator_actions as actions
    where actions.batch_id = pending.batch_id
        and actions.at = pending.closed_at
        and actions.action in ('pending remove', 'pending clear')
        and pending.state = 'removed'
    limit 1
) as done on true
where pending.closed_at is not null
union all
select
    failures.batch_id, wait.at, wait.step, 'failed, ' || wait.what, null, failures.file_upload_id, null,
    els.shown(failures.original_file_name),
    case wait.what
        when 'pending' then concat(
            els.shown(failures.validation_error_code), ', ', els.shown_lines(left(failures.error_detail ->> 'message', 1000))
        )
        when 'expired' then els.shown(failures.validation_error_code)
    end,
    null, failures.correlation_id, split_part(failures.traceparent, '-', 2), 'validation_failures'
from els.own_validation_failures as failures
left join lateral (
    select registered_at
    from els.own_batches as batches
    where batches.batch_id = failures.batch_id
    limit 1
) as batch on true
cross join lateral els.waits(
    case when batch.registered_at <= failures.stored_at then null else failures.stored_at end, failures.history
) as wait
union all
select
    failures.batch_id, greatest(failures.stored_at, batch.registered_at), 5, 'failed, surplus', null,
    failures.file_upload_id, null, els.shown(failures.original_file_name),
    concat(
        els.shown(failures.validation_error_code), ', ', els.shown_lines(left(failures.error_detail ->> 'message', 1000))
    ),
    null, failures.correlation_id, split_part(failures.traceparent, '-', 2), 'validation_failures'
from els.own_validation_failures as failures
left join lateral (
    select registered_at
    from els.own_batches as batches
    where batches.batch_id = failures.batch_id
    limit 1
) as batch on true
where failures.state = 'surplus'
union all
select
    failures.batch_id, failures.closed_at, 7, 'failed, ' || failures.state, null, failures.file_upload_id, null,
    els.shown(failures.original_file_name),
    case failures.state when 'expired' then els.shown(failures.validation_error_code) else done.why end, done.who,
    failures.correlation_id, split_part(failures.traceparent, '-', 2), 'validation_failures'
from els.own_validation_failures as failures
left join lateral (
    select els.shown(actions.who) as who, els.shown_lines(actions.why) as why
    from els.own_operator_actions as actions
    where actions.batch_id = failures.batch_id
        and actions.at = failures.closed_at
        and actions.action in ('pending remove', 'pending clear')
        and failures.state = 'removed'
    limit 1
) as done on true
where failures.closed_at is not null
union all
select
    batch_id, first_seen_at, 3, 'rejected', null, null, null, els.shown(original_file_name),
    concat('quarantine ', id, ': ', reason, ', ', els.shown_lines(error)), null, correlation_id, null, 'quarantine'
from els.own_quarantine as quarantine
union all
select
    batch_id, closed_at, 7, state, null, null, null, els.shown(original_file_name), concat('quarantine ', id), null,
    correlation_id, null, 'quarantine'
from els.own_quarantine as quarantine
where closed_at is not null
union all
select
    batch_id, since, 11, 'blocked', null, null, null, null, concat(topic, ': ', els.shown_lines(error)), null, null, null,
    'outbox_blocked'
from els.own_outbox_blocked as outbox_blocked
union all
select
    batch_id, at, 0, action, null, null, null, null,
    els.shown_lines(concat_ws(' ', nullif(why, ''), nullif(els.shown_json(details)::text, '{}'))), els.shown(who),
    null, null, 'operator_actions'
from els.own_operator_actions as operator_actions
where batch_id is not null;

comment on view ops.timeline is
    'Each thing that happened to a batch, as far as the tables still know it: order by at, step.';
comment on column ops.timeline.batch_id is 'the batch, also one that is not registered; null for a rejected input whose batch could not be read';
comment on column ops.timeline.at is 'when; what one transaction did has one time';
comment on column ops.timeline.step is 'order of what has the same time';
comment on column ops.timeline.what is 'what happened: registered, pending, assigned, excess, failed, rejected, removed, expired, restored, confirmed, completed, announced, cancelled, timed out, blocked, or the command of an operator';
comment on column ops.timeline.text_storage_id is 'the content that it happened to; else null';
comment on column ops.timeline.file_upload_id is 'the upload that it happened to; else null';
comment on column ops.timeline.essay_id is 'the expected essay whose slot was taken; else null';
comment on column ops.timeline.original_file_name is 'name of the uploaded file; else null';
comment on column ops.timeline.details is 'more about it, and why';
comment on column ops.timeline.who is 'the operator who did it; else null';
comment on column ops.timeline.correlation_id is 'correlation id of the input';
comment on column ops.timeline.trace_id is 'trace of the input, in 32 hexadecimal digits, where it had one';
comment on column ops.timeline.source is 'table of schema els that it was read from';
