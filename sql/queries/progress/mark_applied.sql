-- Notes that a partition is applied up to a time of the database: its end was asked for then, and its row has reached
-- it. A time that has not come is replaced: the clock was ahead when it was noted.
-- Refuses where a row states less than this end, which this pod saw committed: the database was set back, and no record
-- has come since then that would show it.
-- Index: progress_pkey. Locks: the rows, in the order of topic and partition.
with given as (
    select *
    from unnest(
        :topics::text[], :partitions::bigint[], :epochs::bigint[], :ends::bigint[], :times::timestamptz[]
    ) as given (topic, "partition", epoch, "end", at)
),
locked as materialized (
    select progress.topic, progress."partition", progress.epoch, progress.next_offset, given."end", given.at
    from els.progress
    inner join given
        on progress.topic = given.topic
        and progress."partition" = given."partition"
        and progress.epoch = given.epoch
    order by progress.topic, progress."partition"
    for no key update of progress
),
marked as (
    update els.progress
    set applied_until = locked.at
    from locked
    where progress.topic = locked.topic
        and progress."partition" = locked."partition"
        and locked.next_offset >= locked."end"
        and (
            progress.applied_until is null
            or progress.applied_until < locked.at
            or progress.applied_until > transaction_timestamp() + interval '1 minute'
        )
    returning progress.topic, progress."partition"
)
select
    locked.topic,
    locked."partition",
    case
        when locked.next_offset < locked."end"
            then els.refuse('EL004', concat_ws(
                ' ', 'the database has lost', locked."end" - locked.next_offset, 'records of', locked.topic,
                'partition', locked."partition"
            ))
    end
from locked
