-- Notes that the database is behind its topics. From the commit on, no pod applies records, purges or replays.
-- Index: recovery_pkey. Locks: none.
insert into els.recovery (state, why, records)
values ('behind', :why, :records)
on conflict (only_row) do nothing
