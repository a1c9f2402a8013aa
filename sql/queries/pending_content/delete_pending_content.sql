-- What waited for these batches has a slot or is excess now. What an operator removed stays, closed.
-- Index: pending_content_order. Locks: the deleted rows; the caller has the batches alone.
delete from els.pending_content
where batch_id = any(:batch_ids::text[])
    and state <> 'removed'
