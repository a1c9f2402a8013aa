-- Notes that the database is behind its topics, and the time until which it is known to be complete, as far as that is
-- known of all partitions. From the commit on, no pod applies records, purges or replays. Refuses where the database
-- holds another slice: what this pod has read of it may be of the time before.
-- Index: recovery_pkey, slice_pkey. Locks: none.
insert into els.recovery (state, why, records, known_until)
select 'behind', :why, :records, case when count(applied_until) = count(*) then min(applied_until) end
from els.progress
having els.check_slice()
on conflict (only_row) do nothing
