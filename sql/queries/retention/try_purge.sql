-- Tries to get the right to purge for this transaction. Returns whether it has it, the time that the purge goes by, and
-- up to which times all registrations, and all inputs, are applied: null where that is not known of a partition that a
-- topic has. Partitions that it has no more do not count. A time that has not come is none: the clock was ahead then.
-- One pod has the right at a time. It ends with the transaction, so it works behind a transaction pooler, and no
-- crashed pod keeps it. Refuses while the database is behind its topics. The key has two parts, so it never equals the
-- key of a batch.
-- Index: input_topics_pkey, progress_pkey, recovery_pkey, server_identity_pkey. Locks: advisory, of the transaction;
-- waits for nothing.
with applied as materialized (
    select
        input.topic,
        case
            when count(progress.applied_until) = known.partitions
                and known.known_at < transaction_timestamp() + interval '1 minute'
                then least(min(progress.applied_until), known.known_at)
        end as until
    from unnest(:topics::text[]) as input (topic)
    left join els.input_topics as known on input.topic = known.topic
    left join els.progress
        on known.topic = progress.topic
        and progress."partition" < known.partitions
        and progress.applied_until < transaction_timestamp() + interval '1 minute'
    group by input.topic, known.partitions, known.known_at
)
select
    els.check_server() and pg_try_advisory_xact_lock(hashtext('els'), hashtext('purge')),
    transaction_timestamp(),
    (select until from applied where topic = :registrations),
    (select case when bool_and(until is not null) then min(until) end from applied)
