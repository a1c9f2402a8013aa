-- Reads what was announced of the assigned slots of one batch, in slot order. A slot whose announcement is not known in
-- full has an origin.
-- Index: slots_pkey. Locks: none.
select
    origin is null, essay_id, text_storage_id, file_upload_id, original_file_name, taken_at, correlation_id, traceparent,
    tracestate
from els.slots
where batch_id = :batch_id
    and state = 'assigned'
order by position
