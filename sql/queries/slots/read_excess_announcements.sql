-- Reads what was announced of the excess content of one batch, in the order of its commits. A content whose
-- announcement is not known in full has an origin.
-- Index: excess_content_pkey. Locks: none.
select
    origin is null, text_storage_id, original_file_name, reason, declared_at, correlation_id, traceparent, tracestate
from els.excess_content
where batch_id = :batch_id
order by declared_at, text_storage_id
