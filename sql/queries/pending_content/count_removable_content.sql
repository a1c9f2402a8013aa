-- Counts what remove_pending_content would remove, for the confirmation that comes before it.
-- Index: pending_content_pkey. Locks: none.
select count(*)
from els.pending_content
where batch_id = :batch_id
    and state <> 'removed'
    and (:text_storage_ids::text[] is null or text_storage_id = any(:text_storage_ids))
    and (:contains::text is null or position(els.folded(:contains) in els.folded(original_file_name)) > 0)
    and (:older_than::float8 is null or stored_at < transaction_timestamp() - make_interval(secs => :older_than))
    and (:newer_than::float8 is null or stored_at > transaction_timestamp() - make_interval(secs => :newer_than))
