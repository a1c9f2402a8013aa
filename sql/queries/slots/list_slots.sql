-- Returns a page of a batch's slots in slot order, after one position.
-- Index: slots_pkey. Locks: none.
select
    position, essay_id, state, text_storage_id, left(original_file_name, 255) as original_file_name, file_upload_id,
    taken_at
from els.slots
where batch_id = :batch_id
    and position > :after
order by position
limit :page
