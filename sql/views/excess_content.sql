-- Shows content that found no open slot. Of one batch: the primary key.

create view ops.excess_content as
select
    batch_id,
    text_storage_id,
    els.shown(original_file_name) as original_file_name,
    reason,
    declared_at,
    file_upload_id,
    raw_file_storage_id,
    file_size_bytes,
    els.shown(content_md5_hash) as content_md5_hash,
    correlation_id,
    pending_at
from els.own_excess_content as excess_content;

comment on view ops.excess_content is
    'Each content for which its registered batch had no open slot.';
comment on column ops.excess_content.batch_id is 'the batch';
comment on column ops.excess_content.text_storage_id is 'the content; with batch_id its identity';
comment on column ops.excess_content.original_file_name is 'name of the uploaded file';
comment on column ops.excess_content.reason is 'BATCH_FULL: the batch was full, closed or cancelled when it came; NO_AVAILABLE_SLOT: no slot was left for it at reconciliation, or another upload took the last slot';
comment on column ops.excess_content.declared_at is 'when it became excess';
comment on column ops.excess_content.file_upload_id is 'upload that it comes from';
comment on column ops.excess_content.raw_file_storage_id is 'where the file itself is stored';
comment on column ops.excess_content.file_size_bytes is 'size of the file';
comment on column ops.excess_content.content_md5_hash is 'MD5 of the content';
comment on column ops.excess_content.correlation_id is 'correlation id of the content';
comment on column ops.excess_content.pending_at is 'when it was stored as pending; null where it was not, and where only an output topic or an earlier release says it';
