-- Finds the uploads whose file names contain a text, in whatever case and normal form: at most so many.
-- Index: none, the tables are read whole. Locks: none.
select batch_id, state, text_storage_id, file_upload_id, original_file_name
from (
    select batch_id, state, text_storage_id, file_upload_id, original_file_name
    from els.slots
    union all
    select batch_id, state, text_storage_id, file_upload_id, original_file_name
    from els.pending_content
    union all
    select batch_id, 'excess', text_storage_id, file_upload_id, original_file_name
    from els.excess_content
    union all
    select batch_id, state, null, file_upload_id, original_file_name
    from els.validation_failures
    where state <> 'slot'
) as uploads
where position(lower(normalize(:part)) in lower(normalize(original_file_name))) > 0
    and original_file_name <> '[erased]'
order by batch_id, file_upload_id
limit :most
