-- Notes offsets that an operator skips: new ones, or more from the same offset on. Returns when they were noted first.
-- Index: skipped_inputs_pkey. Locks: the row, for which another operator waits who skips the same.
insert into els.skipped_inputs as skipped (topic, "partition", epoch, first_offset, next_offset)
values (:topic, :partition, :epoch, :first_offset, :next_offset)
on conflict (topic, "partition", epoch, first_offset) do update
set next_offset = greatest(skipped.next_offset, excluded.next_offset)
returning skipped_at
