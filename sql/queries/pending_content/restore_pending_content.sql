-- Makes expired content pending again: its time to live starts anew, its place in the order stays.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: pending_content_pkey. Locks: the rows; the caller holds the exclusive lock of the batch and has read since
-- then that it is not registered.
update els.pending_content
set state = 'pending',
    waiting_since = transaction_timestamp(),
    closed_at = null,
    history = els.with_state(els.with_state(history, state, closed_at), 'restored', transaction_timestamp())
where batch_id = :batch_id
    and case state when 'expired' then true end
    and (:text_storage_ids::text[] is null or text_storage_id = any(:text_storage_ids))
returning text_storage_id
