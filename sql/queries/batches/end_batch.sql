-- Ends a batch as an operator has decided: what was open is withdrawn. One that was complete before it is cancelled has
-- announced that, and is cancelled later than it was complete; otherwise both times are the same.
-- Index: batches_pkey. Locks: the row, held since count_taken.
update els.batches
set withdrawn = expected - assigned - failed,
    state = :state::text,
    completed_at = coalesce(completed_at, transaction_timestamp()),
    ready_announced_at = case when :state::text = 'ready' then transaction_timestamp() end,
    cancelled_at = case
        when :state::text = 'cancelled'
            then greatest(transaction_timestamp(), completed_at + interval '1 microsecond')
    end,
    cancel_reason = :reason::text,
    changed_at = transaction_timestamp()
where batch_id = :batch_id
