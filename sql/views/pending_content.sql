-- Shows content that waits for the registration of its batch. All of it: index pending_content_due; of one batch:
-- the primary key.

create view ops.pending_content as
select
    batch_id,
    text_storage_id,
    els.shown(original_file_name) as original_file_name,
    stored_at,
    now() - stored_at as age,
    waiting_since
        + make_interval(secs => (select policy.seconds from els.policy where policy.name = 'pending_ttl'))
        - now() as expires_in,
    correlation_id,
    file_upload_id,
    raw_file_storage_id,
    file_size_bytes,
    els.shown(content_md5_hash) as content_md5_hash,
    waiting_since,
    arrival
from els.own_pending_content as pending_content
where state = 'pending';

comment on view ops.pending_content is
    'Each content whose batch is not registered yet.';
comment on column ops.pending_content.batch_id is 'the batch that it waits for';
comment on column ops.pending_content.text_storage_id is 'the content; with batch_id its identity';
comment on column ops.pending_content.original_file_name is 'name of the uploaded file';
comment on column ops.pending_content.stored_at is 'when it was first stored';
comment on column ops.pending_content.age is 'time since stored_at';
comment on column ops.pending_content.expires_in is 'time until it expires; negative where the next purge expires it';
comment on column ops.pending_content.correlation_id is 'correlation id of the content';
comment on column ops.pending_content.file_upload_id is 'upload that it comes from';
comment on column ops.pending_content.raw_file_storage_id is 'where the file itself is stored';
comment on column ops.pending_content.file_size_bytes is 'size of the file';
comment on column ops.pending_content.content_md5_hash is 'MD5 of the content';
comment on column ops.pending_content.waiting_since is 'when its time to live began: when it was stored, or restored';
comment on column ops.pending_content.arrival is 'its place in the order of arrival, in which slots are assigned';
