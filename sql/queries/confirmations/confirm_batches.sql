-- Notes that these batches are confirmed. Those that were complete are ready from now on, not before they were
-- complete: a transaction may begin earlier than one whose lock it waits for. The caller has locked their counter rows.
-- Index: batches_pkey. Locks: the batches' rows, held since count_taken.
update els.batches
set confirmed_at = transaction_timestamp(),
    ready_announced_at = case
        when state = 'complete' then greatest(transaction_timestamp(), completed_at)
        else ready_announced_at
    end,
    state = case when state = 'complete' then 'ready' else state end,
    changed_at = transaction_timestamp()
where batch_id = any(:batch_ids::text[])
