-- Notes that a partition is applied up to a time of the database: its end was asked for then, and its row has reached it.
-- Index: progress_pkey. Locks: the rows, in the order of topic and partition.
with given as (
    select *
    from unnest(
        :topics::text[], :partitions::bigint[], :epochs::bigint[], :ends::bigint[], :times::timestamptz[]
    ) as given (topic, "partition", epoch, "end", at)
),
locked as materialized (
    select progress.topic, progress."partition"
    from els.progress
    inner join given
        on progress.topic = given.topic
        and progress."partition" = given."partition"
    order by progress.topic, progress."partition"
    for no key update of progress
)
update els.progress
set applied_until = given.at
from given
inner join locked
    on given.topic = locked.topic
    and given."partition" = locked."partition"
where progress.topic = given.topic
    and progress."partition" = given."partition"
    and progress.epoch = given.epoch
    and progress.next_offset >= given."end"
    and (progress.applied_until is null or progress.applied_until < given.at)
returning progress.topic, progress."partition"
