-- Shows which content or failure each slot holds. A batch is found by the primary key.

create view ops.slots as
select
    batch_id,
    essay_id,
    position,
    state,
    text_storage_id,
    els.shown(original_file_name) as original_file_name,
    case when state = 'assigned' then taken_at end as assigned_at,
    case when state = 'failed' then taken_at end as failed_at,
    file_upload_id,
    raw_file_storage_id,
    file_size_bytes,
    els.shown(content_md5_hash) as content_md5_hash,
    correlation_id,
    pending_at
from els.own_slots as slots;

comment on view ops.slots is
    'Each expected essay of each registered batch.';
comment on column ops.slots.batch_id is 'the batch';
comment on column ops.slots.essay_id is 'the expected essay';
comment on column ops.slots.position is 'place in the registration, from 1; slots are assigned in this order';
comment on column ops.slots.state is 'open, assigned (holds a content), failed (holds a validation failure) or withdrawn (its batch was closed or cancelled)';
comment on column ops.slots.text_storage_id is 'the content that it holds; null unless it is assigned';
comment on column ops.slots.original_file_name is 'name of the uploaded file';
comment on column ops.slots.assigned_at is 'when its content took it; null unless it is assigned';
comment on column ops.slots.failed_at is 'when a validation failure took it; null unless it is failed';
comment on column ops.slots.file_upload_id is 'upload that its content or its failure comes from';
comment on column ops.slots.raw_file_storage_id is 'where the file itself is stored';
comment on column ops.slots.file_size_bytes is 'size of the file';
comment on column ops.slots.content_md5_hash is 'MD5 of the content';
comment on column ops.slots.correlation_id is 'correlation id of what took it';
comment on column ops.slots.pending_at is 'when its content was stored as pending; null where it was not, and where only an output topic or an earlier release says it';
