-- Ends the transfer of a whole cell: in the database that it has left, the fence stays; in that of the standby, it
-- is taken away. Pods that are fenced handle no record, so marks of whole partitions go.
-- Index: transfer_pkey, slice_pkey. Locks: these rows.
with moved as (
    update els.transfer
    set state = 'done',
        ended_at = clock_timestamp()
    where run = :run::uuid
        and state = 'sealed'
    returning run, origin = els.this_server() as has_left
), unfenced as (
    update els.slice
    set fenced = moved.has_left,
        since = clock_timestamp()
    from moved
), gone_pods as (
    delete from els.pods
    where exists (select from moved)
), gone_marks as (
    delete from els.crash_marks
    where records is null
        and exists (select from moved)
)
insert into els.operator_actions (who, action, why, details)
select :who, 'cells move', :why, jsonb_build_object('run', run, 'state', 'done', 'has_left', has_left)
from moved
returning at
