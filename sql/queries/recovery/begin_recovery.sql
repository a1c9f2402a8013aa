-- Notes that this process recovers the database, instead of another one. From the commit on, pods apply, publish and
-- purge nothing, and a recovery that was begun before ends with an error. Returns since when it is, why, and until when
-- the database is known to be complete.
-- Index: recovery_pkey. Locks: the row.
insert into els.recovery as recovery (state, why, run)
values ('recovering', :why, :run)
on conflict (only_row) do update
set state = 'recovering',
    run = excluded.run
returning recovery.since, recovery.why, recovery.known_until
