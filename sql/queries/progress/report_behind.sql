-- Notes that the database is behind its topics, and the latest time until which it is known to be complete. From the
-- commit on, no pod applies records, purges or replays.
-- Index: recovery_pkey. Locks: none.
insert into els.recovery (state, why, records, known_until)
select 'behind', :why, :records, max(applied_until)
from els.progress
on conflict (only_row) do nothing
