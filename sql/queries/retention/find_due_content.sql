-- The pending content that has waited longest, of batches that were not passed over. A look only: what is done about
-- it is decided behind the locks of its batches.
-- Index: pending_content_due. Locks: none.
select batch_id, text_storage_id
from els.pending_content
where state = 'pending'
    and waiting_since <= :due::timestamptz
    and batch_id <> all(:passed::text[])
order by waiting_since, arrival
limit :page
