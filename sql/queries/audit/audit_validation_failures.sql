-- Reads all validation failures, for an audit.
-- Index: none, the whole table is read. Locks: none.
select batch_id, file_upload_id, state, stored_at, origin
from els.validation_failures
