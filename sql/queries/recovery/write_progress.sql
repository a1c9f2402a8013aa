-- Writes how far a recovery has applied partitions. A row only moves forward.
-- Index: progress_pkey. Locks: the rows, in the order of topic and partition.
insert into els.progress as progress (
    topic, "partition", epoch, next_offset, record_offset, record_at, record_digest
)
select topic, "partition", epoch, next_offset, record_offset, record_at, record_digest
from unnest(
    :topics::text[], :partitions::bigint[], :epochs::bigint[], :next_offsets::bigint[], :record_offsets::bigint[],
    :record_times::timestamptz[], :record_digests::bytea[]
) as applied (topic, "partition", epoch, next_offset, record_offset, record_at, record_digest)
order by topic, "partition"
on conflict (topic, "partition") do update
set epoch = excluded.epoch,
    next_offset = excluded.next_offset,
    record_offset = coalesce(excluded.record_offset, progress.record_offset),
    record_at = case when excluded.record_offset is null then progress.record_at else excluded.record_at end,
    record_digest = coalesce(excluded.record_digest, progress.record_digest),
    previous_release = false
where (excluded.epoch, excluded.next_offset) >= (progress.epoch, progress.next_offset)
