-- Closes a rejected input that is open, together with the value that an operator has sent in its place. Last in the
-- transaction but for the operator actions, as in close_quarantine.
-- Index: quarantine_pkey. Locks: the row.
update els.quarantine
set state = 'replayed',
    closed_at = transaction_timestamp(),
    edited_value = :value
where id = :id
    and erased_at is null
    and state = 'open'
returning id, topic, reason, fingerprint, batch_id
