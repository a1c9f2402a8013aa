-- Reads what the rows of a batch state that is erased, and the ids that identify it (kind: name, text, upload,
-- user): of all its uploads and of its registration, or of these texts and uploads.
-- Index: batches_pkey, slots_pkey, pending_content_pkey, excess_content_pkey, validation_failures_pkey. Locks: none.
with uploads as (
    select text_storage_id, file_upload_id, original_file_name
    from els.slots
    where batch_id = :batch_id
    union all
    select text_storage_id, file_upload_id, original_file_name
    from els.pending_content
    where batch_id = :batch_id
    union all
    select text_storage_id, file_upload_id, original_file_name
    from els.excess_content
    where batch_id = :batch_id
    union all
    select null, file_upload_id, original_file_name
    from els.validation_failures
    where batch_id = :batch_id
),
chosen as (
    select *
    from uploads
    where :whole::boolean
        or text_storage_id = any(:texts::text[])
        or file_upload_id = any(:uploads::text[])
)
select 'name', original_file_name
from chosen
where original_file_name not in ('', '[erased]')
union
select 'text', text_storage_id
from chosen
where text_storage_id is not null
union
select 'upload', file_upload_id
from chosen
where file_upload_id is not null
union
select 'user', user_id
from els.batches
where batch_id = :batch_id
    and :whole
    and user_id <> '[erased]'
