-- Finds the pending content that has waited longest, without that of skipped batches, and without what waits for a
-- registration that is open in quarantine: it may be replayed. Its topic is written out, since an index is for it only.
-- Only a read: the statements that change what was found check it again, under the locks of its batches.
-- Index: pending_content_due, quarantine_open_registrations. Locks: none.
select batch_id, text_storage_id
from els.pending_content
where state = 'pending'
    and waiting_since <= :due::timestamptz
    and batch_id <> all(:skipped::text[])
    and not exists (
        select
        from els.quarantine
        where quarantine.state = 'open'
            and quarantine.topic = 'huleedu.batch.essays.registered.v1'
            and md5(quarantine.key) = md5(convert_to(pending_content.batch_id, 'UTF8'))
    )
order by waiting_since, arrival
limit :page
