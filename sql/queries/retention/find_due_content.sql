-- Finds the pending content that has waited longest, without that of skipped batches. Only a read: the statements that
-- change what was found check it again, under the locks of its batches.
-- Index: pending_content_due. Locks: none.
select batch_id, text_storage_id
from els.pending_content
where state = 'pending'
    and waiting_since <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
order by waiting_since, arrival
limit :page
