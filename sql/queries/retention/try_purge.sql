-- Tries to get the right to purge for this transaction. Returns whether it has it, the time that the purge goes by, and up
-- to which times all registrations, and all inputs, are applied: null where that is not known of a partition, or where a
-- topic has none yet. One pod has the right at a time. It ends with the transaction, so it works behind a transaction
-- pooler, and no crashed pod keeps it. Refuses while the database is behind its topics.
-- The key has two parts, so it never equals the key of a batch.
-- Index: recovery_pkey, server_identity_pkey. Locks: advisory, of the transaction; waits for nothing.
with applied as materialized (
    select
        input.topic,
        case when bool_and(progress.applied_until is not null) then min(progress.applied_until) end as until
    from unnest(:topics::text[]) as input (topic)
    left join els.progress on input.topic = progress.topic
    group by input.topic
)
select
    els.check_server() and pg_try_advisory_xact_lock(hashtext('els'), hashtext('purge')),
    transaction_timestamp(),
    (select until from applied where topic = :registrations),
    (select case when bool_and(until is not null) then min(until) end from applied)
