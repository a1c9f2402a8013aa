-- Returns batches that are not finished: those that were reported as late, those whose class is not confirmed, and
-- those that have been registered longest; at most so many of each, the oldest first (of the late ones the latest).
-- Index: batches_late_reported, batches_unconfirmed, batches_late. Locks: none.
(
    select 'late' as kind, batch_id, state, expected, assigned, failed, registered_at, timed_out_at as at
    from els.own_batches as batches
    where state = 'registered'
        and timed_out_at is not null
    order by timed_out_at desc
    limit :page
)
union all
(
    select 'unconfirmed', batch_id, state, expected, assigned, failed, registered_at, completed_at
    from els.own_batches as batches
    where state = 'complete'
    order by completed_at
    limit :page
)
union all
(
    select 'open', batch_id, state, expected, assigned, failed, registered_at, registered_at
    from els.own_batches as batches
    where state = 'registered'
        and timed_out_at is null
    order by registered_at
    limit :page
)
