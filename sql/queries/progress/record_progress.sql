-- Moves the rows of partitions forward, as the last statement of the transaction that dealt with their records.
-- Refuses, so that the transaction is rolled back, where the database is not the one that this pod has seen: it is
-- behind, another server, in another epoch, or states less than what this pod saw committed (`seen`). A row that is
-- ahead stays.
-- Index: progress_pkey. Locks: the rows, in the order of topic and partition.
with written as (
    select *
    from unnest(
        :topics::text[], :partitions::bigint[], :epochs::bigint[], :seen::bigint[], :next_offsets::bigint[],
        :record_offsets::bigint[], :record_times::timestamptz[], :record_digests::bytea[]
    ) as written (topic, "partition", epoch, seen, next_offset, record_offset, record_at, record_digest)
),
locked as materialized (
    select progress.topic, progress."partition", progress.epoch, progress.next_offset
    from els.progress
    inner join written
        on progress.topic = written.topic
        and progress."partition" = written."partition"
    order by progress.topic, progress."partition"
    for no key update of progress
),
moved as (
    update els.progress
    set next_offset = written.next_offset,
        record_offset = coalesce(written.record_offset, progress.record_offset),
        record_at = case when written.record_offset is null then progress.record_at else written.record_at end,
        record_digest = coalesce(written.record_digest, progress.record_digest)
    from written
    inner join locked
        on written.topic = locked.topic
        and written."partition" = locked."partition"
    where progress.topic = written.topic
        and progress."partition" = written."partition"
        and progress.epoch = written.epoch
        and progress.next_offset < written.next_offset
)
select
    els.check_server(),
    case
        when locked.epoch is distinct from written.epoch
            then els.refuse('EL003', concat_ws(' ', 'another epoch:', written.topic, written."partition"))
        when locked.next_offset < written.seen
            then els.refuse('EL004', concat_ws(
                ' ', 'the database has lost', written.seen - locked.next_offset, 'records of', written.topic,
                'partition', written."partition"
            ))
    end
from written
left join locked
    on written.topic = locked.topic
    and written."partition" = locked."partition"
