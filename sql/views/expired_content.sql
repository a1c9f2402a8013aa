-- Shows content whose registration did not come in time. Of one batch: the primary key.

create view ops.expired_content as
select
    batch_id,
    text_storage_id,
    els.shown(original_file_name) as original_file_name,
    closed_at as expired_at,
    stored_at,
    now() - closed_at as age,
    file_upload_id,
    raw_file_storage_id,
    file_size_bytes,
    els.shown(content_md5_hash) as content_md5_hash,
    correlation_id
from els.own_pending_content as pending_content
where state = 'expired';

comment on view ops.expired_content is
    'Each content whose registration did not come in time; it can be restored, and a late registration still assigns it.';
comment on column ops.expired_content.batch_id is 'the batch that it waited for';
comment on column ops.expired_content.text_storage_id is 'the content; with batch_id its identity';
comment on column ops.expired_content.original_file_name is 'name of the uploaded file';
comment on column ops.expired_content.expired_at is 'when it expired';
comment on column ops.expired_content.stored_at is 'when it was first stored';
comment on column ops.expired_content.age is 'time since expired_at';
comment on column ops.expired_content.file_upload_id is 'upload that it comes from';
comment on column ops.expired_content.raw_file_storage_id is 'where the file itself is stored';
comment on column ops.expired_content.file_size_bytes is 'size of the file';
comment on column ops.expired_content.content_md5_hash is 'MD5 of the content';
comment on column ops.expired_content.correlation_id is 'correlation id of the content';
