-- Notes that this process recovers the database, instead of another one. From the commit on, pods apply, publish and
-- purge nothing, and a recovery that was begun before ends with an error. Returns since when it is, why, and until when
-- the database is known to be complete: as noted when it was found to be behind, otherwise as its rows state now. A
-- batch that is incomplete lacks something from before. Refuses where the database holds another slice, or is fenced.
-- Index: recovery_pkey, slice_pkey; progress is read whole. Locks: the row.
insert into els.recovery as recovery (state, why, run, known_until)
select
    'recovering', :why, :run,
    case
        when count(applied_until) = count(*) and not exists (select from els.incomplete_batches)
            then min(applied_until)
    end
from els.progress
having els.check_slice()
on conflict (only_row) do update
set state = 'recovering',
    run = excluded.run
returning recovery.since, recovery.why, recovery.known_until
