-- Takes the fence away again, where the transfer has not got to its cut. Pods go on as before.
-- Index: slice_pkey, transfer_pkey. Locks: these rows.
with cancelled as (
    delete from els.transfer
    where run = :run::uuid
        and state <> 'done'
    returning run, kind
), unfenced as (
    update els.slice
    set fenced = false
    where exists (select from cancelled)
)
insert into els.operator_actions (who, action, why, details)
select :who, format('cells %s', kind), :why, jsonb_build_object('run', run, 'state', 'cancelled')
from cancelled
returning at
