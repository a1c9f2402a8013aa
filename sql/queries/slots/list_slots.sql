-- Returns a page of a batch's slots in slot order, after one position; of failed ones with the failure's file, code and
-- message.
-- Index: slots_pkey, validation_failures_pkey. Locks: none.
select
    slots.position, slots.essay_id, slots.state, slots.text_storage_id,
    left(coalesce(slots.original_file_name, failure.original_file_name), 255) as original_file_name,
    slots.file_upload_id, slots.taken_at, failure.validation_error_code,
    left(failure.error_detail ->> 'message', 1000) as message, slots.pending_at
from els.own_slots as slots
left join lateral (
    select validation_error_code, error_detail, original_file_name
    from els.own_validation_failures as validation_failures
    where slots.state = 'failed'
        and validation_failures.batch_id = slots.batch_id
        and validation_failures.file_upload_id = slots.file_upload_id
    limit 1
) as failure on true
where slots.batch_id = :batch_id
    and slots.position > :after
order by slots.position
limit :page
