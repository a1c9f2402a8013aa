-- Finds failures that expired long ago, as find_old_expired_content finds content.
-- Index: validation_failures_expired. Locks: none.
select batch_id, file_upload_id
from els.own_validation_failures as validation_failures
where state = 'expired'
    and closed_at <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
order by closed_at
limit :page
