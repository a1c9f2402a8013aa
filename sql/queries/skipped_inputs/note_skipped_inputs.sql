-- Notes offsets that an operator had skipped before the database was set back, so that nobody reads them meanwhile.
-- Index: skipped_inputs_pkey. Locks: the new rows.
insert into els.skipped_inputs (topic, "partition", epoch, first_offset, next_offset)
select topic, "partition", epoch, first_offset, next_offset
from unnest(
    :topics::text[], :partitions::bigint[], :epochs::bigint[], :first_offsets::bigint[], :next_offsets::bigint[]
) as skipped (topic, "partition", epoch, first_offset, next_offset)
on conflict (topic, "partition", epoch, first_offset) do nothing
