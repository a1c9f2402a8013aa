-- Notes offsets that an operator had skipped before the database was set back, so that nobody reads them meanwhile.
-- Index: skipped_inputs_pkey. Locks: the rows.
insert into els.skipped_inputs as skipped (topic, "partition", epoch, first_offset, next_offset)
select topic, "partition", epoch, first_offset, max(next_offset)
from unnest(
    :topics::text[], :partitions::bigint[], :epochs::bigint[], :first_offsets::bigint[], :next_offsets::bigint[]
) as noted (topic, "partition", epoch, first_offset, next_offset)
group by topic, "partition", epoch, first_offset
on conflict (topic, "partition", epoch, first_offset) do update
set next_offset = greatest(skipped.next_offset, excluded.next_offset)
