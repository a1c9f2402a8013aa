-- Finds the failures that have waited longest, as find_due_content finds content.
-- Index: validation_failures_due, quarantine_open_registrations, incomplete_batches_pkey. Locks: none.
select batch_id, file_upload_id
from els.own_expirable_failures as expirable_failures
where waiting_since <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
order by waiting_since, arrival
limit :page
