-- Notes in which partitions a producer's transaction has been open for long, and in which it is not any more.
-- Index: progress_pkey. Locks: the rows that change, in the order of topic and partition.
with changing as materialized (
    select progress.topic, progress."partition", given.is_open
    from els.progress
    inner join unnest(:topics::text[], :partitions::bigint[], :are_open::boolean[]) as given (topic, "partition", is_open)
        on progress.topic = given.topic
        and progress."partition" = given."partition"
    where (progress.open_transaction_since is not null) <> given.is_open
    order by progress.topic, progress."partition"
    for no key update of progress
)
update els.progress
set open_transaction_since = case when changing.is_open then clock_timestamp() end
from changing
where progress.topic = changing.topic
    and progress."partition" = changing."partition"
