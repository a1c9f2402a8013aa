-- Deletes confirmations whose registration did not come within the retention of batches.
-- Index: confirmations_waiting, quarantine_open_registrations, incomplete_batches_pkey. Locks: the rows.
delete from els.confirmations
where (batch_id, class_id) in (
    select batch_id, class_id
    from els.own_expirable_confirmations
    where stored_at <= :due::timestamptz
    order by stored_at
    limit :page
)
returning batch_id, class_id, correlation_id, traceparent
