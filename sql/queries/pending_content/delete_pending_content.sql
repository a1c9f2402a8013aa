-- Deletes the pending content of these batches: by now it has a slot or is excess. Content that an operator removed
-- stays.
-- Index: pending_content_order. Locks: the deleted rows; the caller holds the exclusive locks of the batches.
delete from els.pending_content
where batch_id = any(:batch_ids::text[])
    and state <> 'removed'
