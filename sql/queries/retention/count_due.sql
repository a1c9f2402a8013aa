-- Counts what a purge at this moment would find to do; a null time means that nothing is due. Reads only those rows.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: those of the find_… statements. Locks: none.
select
    (
        select count(*)
        from els.own_expirable_content as expirable_content
        where waiting_since <= :pending_due::timestamptz
    ) as expired_content,
    (
        select count(*)
        from els.own_expirable_failures as expirable_failures
        where waiting_since <= :pending_due::timestamptz
    ) as expired_failures,
    (
        select count(*)
        from els.own_batches as batches
        where state = 'registered'
            and timed_out_at is null
            and registered_at <= :late_due::timestamptz
    ) as timed_out_batches,
    (
        select count(*)
        from els.own_batches as batches
        where state = 'complete'
            and not :waits::boolean
    ) as ended_waits,
    (
        select count(*)
        from els.own_expirable_confirmations as expirable_confirmations
        where stored_at <= :confirmations_due::timestamptz
    ) as deleted_confirmations,
    (
        select count(*)
        from els.own_pending_content as pending_content
        where state = 'expired'
            and closed_at <= :expired_due::timestamptz
    ) as deleted_content,
    (
        select count(*)
        from els.own_validation_failures as validation_failures
        where state = 'expired'
            and closed_at <= :expired_due::timestamptz
    ) as deleted_failures,
    (
        select count(*)
        from els.own_ended_batches as ended_batches
        where ended_at <= :ended_due::timestamptz
            and unchanged_since <= :ended_due::timestamptz
    ) as deleted_batches,
    (
        select count(*)
        from els.own_pending_content as pending_content
        where state = 'removed'
            and closed_at <= :closed_due::timestamptz
    ) as deleted_removed,
    (
        select count(*)
        from els.own_validation_failures as validation_failures
        where state = 'removed'
            and closed_at <= :closed_due::timestamptz
    ) as deleted_removed_failures,
    (
        select count(*)
        from els.own_quarantine as quarantine
        where closed_at <= :closed_due::timestamptz
            and last_seen_at <= :closed_due::timestamptz
    ) as deleted_quarantine,
    (
        select count(*)
        from els.own_operator_actions as operator_actions
        where at <= :actions_due::timestamptz
    ) as deleted_actions,
    (
        select count(*)
        from els.erasures
        where erased_at <= :erasures_due::timestamptz
    ) as deleted_erasures,
    (
        select count(*)
        from els.batches
        where (select trims from els.slice)
            and els.cell_of(batch_id, (select cells from els.slice)) <> (select cell from els.slice)
    ) as trimmed_batches
