-- Finds the pending content that has waited longest and may expire, without that of skipped batches. Only a read: the
-- statements that change what was found check it again, under the locks of its batches.
-- Index: pending_content_due, quarantine_open_registrations, incomplete_batches_pkey. Locks: none.
select batch_id, text_storage_id
from els.own_expirable_content as expirable_content
where waiting_since <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
order by waiting_since, arrival
limit :page
