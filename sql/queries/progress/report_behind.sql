-- Notes that the database is behind its topics, and the time until which it is known to be complete, as far as that is
-- known of all partitions. From the commit on, no pod applies records, purges or replays.
-- Index: recovery_pkey. Locks: none.
insert into els.recovery (state, why, records, known_until)
select 'behind', :why, :records, case when count(applied_until) = count(*) then min(applied_until) end
from els.progress
on conflict (only_row) do nothing
