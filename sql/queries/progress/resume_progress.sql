-- Writes where a pod continues in partitions that it takes over, where that is not what the row states: a first row, an
-- offset that a previous release left, records that are lost, a new epoch. Returns the partitions that were written:
-- where another pod has changed a row meanwhile, it is not.
-- Index: progress_pkey. Locks: the rows, in the order of topic and partition.
insert into els.progress as progress (topic, "partition", epoch, next_offset)
select topic, "partition", epoch, next_offset
from unnest(
    :topics::text[], :partitions::bigint[], :epochs::bigint[], :next_offsets::bigint[]
) as resumed (topic, "partition", epoch, next_offset)
order by topic, "partition"
on conflict (topic, "partition") do update
set epoch = excluded.epoch,
    next_offset = excluded.next_offset,
    record_offset = case when excluded.epoch = progress.epoch then progress.record_offset end,
    record_at = case when excluded.epoch = progress.epoch then progress.record_at end,
    record_digest = case when excluded.epoch = progress.epoch then progress.record_digest end,
    applied_until = null,
    previous_release = false
where (excluded.epoch, excluded.next_offset) >= (progress.epoch, progress.next_offset)
returning progress.topic, progress."partition"
