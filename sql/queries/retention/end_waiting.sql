-- Makes batches ready that waited for a confirmation, which is not waited for any more.
-- Index: batches_pkey. Locks: the rows, held since find_unconfirmed_batches.
update els.batches
set state = 'ready',
    ready_announced_at = greatest(transaction_timestamp(), completed_at),
    changed_at = transaction_timestamp()
where batch_id = any(:batch_ids::text[])
    and state = 'complete'
