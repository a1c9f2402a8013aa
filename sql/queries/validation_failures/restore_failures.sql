-- Makes expired failures of a batch pending again, as restore_pending_content does with content: the given ones, or
-- all.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: validation_failures_pkey. Locks: the rows; the caller holds the exclusive lock of the batch and has read since
-- then that it is not registered.
update els.validation_failures
set state = 'pending',
    waiting_since = transaction_timestamp(),
    closed_at = null,
    history = els.with_state(els.with_state(history, state, closed_at), 'restored', transaction_timestamp())
where batch_id = :batch_id
    and case state when 'expired' then true end
    and (:file_upload_ids::text[] is null or file_upload_id = any(:file_upload_ids))
returning file_upload_id
