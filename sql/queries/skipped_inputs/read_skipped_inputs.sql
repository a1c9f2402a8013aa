-- Reads the offsets that operators have skipped, but for those of logs that are no more: a topic that was created again
-- has other records there.
-- Index: progress_pkey; of skipped inputs it reads all, a row for each. Locks: none.
select topic, "partition", epoch, first_offset, next_offset
from els.skipped_inputs
where not exists (
    select
    from els.progress
    where progress.topic = skipped_inputs.topic
        and progress."partition" = skipped_inputs."partition"
        and progress.epoch > skipped_inputs.epoch
)
order by topic, "partition", first_offset
