-- Shows uploads that yield no text. Of one batch: the primary key; those that wait: index validation_failures_due.

create view ops.validation_failures as
select
    batch_id,
    file_upload_id,
    els.shown(original_file_name) as original_file_name,
    els.shown(validation_error_code) as validation_error_code,
    state = 'pending' as pending,
    state,
    failed_at,
    stored_at,
    els.shown_lines(error_detail ->> 'message') as message,
    els.safe_json(error_detail::text)::json as error_detail,
    raw_file_storage_id,
    file_size_bytes,
    correlation_id,
    case when state = 'expired' then closed_at end as expired_at,
    case when state = 'removed' then closed_at end as removed_at
from els.own_validation_failures as validation_failures;

comment on view ops.validation_failures is
    'Each upload in which the File Service found no text.';
comment on column ops.validation_failures.batch_id is 'the batch';
comment on column ops.validation_failures.file_upload_id is 'the upload; with batch_id the identity of the failure';
comment on column ops.validation_failures.original_file_name is 'name of the uploaded file';
comment on column ops.validation_failures.validation_error_code is 'what was wrong with it, as a code of the File Service';
comment on column ops.validation_failures.pending is 'whether it waits for the registration of its batch';
comment on column ops.validation_failures.state is 'pending: waits for the registration; expired: it did not come in time; removed: by an operator; slot: holds a slot; surplus: found no open slot';
comment on column ops.validation_failures.failed_at is 'when the File Service found it';
comment on column ops.validation_failures.stored_at is 'when it was first stored';
comment on column ops.validation_failures.message is 'what was wrong with it, in words';
comment on column ops.validation_failures.error_detail is 'all that the File Service says about it';
comment on column ops.validation_failures.raw_file_storage_id is 'where the file itself is stored';
comment on column ops.validation_failures.file_size_bytes is 'size of the file';
comment on column ops.validation_failures.correlation_id is 'correlation id of the failure';
comment on column ops.validation_failures.expired_at is 'when it expired; null unless it is expired';
comment on column ops.validation_failures.removed_at is 'when an operator removed it, equal to ops.operator_actions.at; null unless it is removed';
