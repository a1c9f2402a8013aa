-- Finds the failures that have waited longest, as find_due_content finds content.
-- Index: validation_failures_due, quarantine_open_registrations. Locks: none.
select batch_id, file_upload_id
from els.validation_failures
where state = 'pending'
    and waiting_since <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
    and not exists (
        select
        from els.quarantine
        where quarantine.state = 'open'
            and quarantine.topic = 'huleedu.batch.essays.registered.v1'
            and md5(quarantine.key) = md5(convert_to(validation_failures.batch_id, 'UTF8'))
    )
order by waiting_since, arrival
limit :page
