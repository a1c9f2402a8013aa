-- Finds content that expired long ago and was neither restored nor reconciled, the oldest first. Only a read, as
-- find_due_content.
-- Index: pending_content_expired. Locks: none.
select batch_id, text_storage_id
from els.own_pending_content as pending_content
where state = 'expired'
    and closed_at <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
order by closed_at
limit :page
