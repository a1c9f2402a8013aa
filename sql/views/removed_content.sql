-- Shows content that operators removed. Of one batch: the primary key; who and why: index operator_actions_batch.

create view ops.removed_content as
select
    removed.batch_id,
    removed.text_storage_id,
    els.shown(removed.original_file_name) as original_file_name,
    removed.closed_at as removed_at,
    els.shown(done.who) as who,
    els.shown_lines(done.why) as why,
    removed.stored_at,
    removed.file_upload_id,
    removed.raw_file_storage_id,
    removed.file_size_bytes,
    els.shown(removed.content_md5_hash) as content_md5_hash,
    removed.correlation_id
from els.own_pending_content as removed
left join lateral (
    select actions.who, actions.why
    from els.own_operator_actions as actions
    where actions.batch_id = removed.batch_id
        and actions.at = removed.closed_at
        and actions.action in ('pending remove', 'pending clear')
    limit 1
) as done on true
where removed.state = 'removed';

comment on view ops.removed_content is
    'Each content that an operator removed while it waited; a redelivery does not store it again.';
comment on column ops.removed_content.batch_id is 'the batch that it waited for';
comment on column ops.removed_content.text_storage_id is 'the content; with batch_id its identity';
comment on column ops.removed_content.original_file_name is 'name of the uploaded file';
comment on column ops.removed_content.removed_at is 'when it was removed; equal to ops.operator_actions.at';
comment on column ops.removed_content.who is 'who removed it; null once the row of ops.operator_actions is deleted, at the end of its retention';
comment on column ops.removed_content.why is 'the reason given; empty where none was';
comment on column ops.removed_content.stored_at is 'when it was first stored';
comment on column ops.removed_content.file_upload_id is 'upload that it comes from';
comment on column ops.removed_content.raw_file_storage_id is 'where the file itself is stored';
comment on column ops.removed_content.file_size_bytes is 'size of the file';
comment on column ops.removed_content.content_md5_hash is 'MD5 of the content';
comment on column ops.removed_content.correlation_id is 'correlation id of the content';
