-- Closes rejected inputs that are open; the rows stay, so that a redelivery does not open them again. Rows are locked
-- in the order of quarantine_inputs and, as there, last in the transaction but for the operator actions.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: quarantine_pkey. Locks: the rows.
with held as materialized (
    select id
    from els.quarantine
    where id = any(:ids::bigint[])
        and state = 'open'
    order by row(topic, fingerprint)  -- no index is sorted so: the ids are probed
    for no key update
)
update els.quarantine
set state = :state,
    closed_at = transaction_timestamp()
from held
where quarantine.id = any(array[held.id])
returning quarantine.id, quarantine.topic, quarantine.reason, quarantine.fingerprint, quarantine.batch_id
