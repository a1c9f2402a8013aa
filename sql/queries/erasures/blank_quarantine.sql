-- Blanks rejected inputs. What identifies them (topic, fingerprint, place) and the reason stay, so that a redelivery is
-- still a repeat. An edited value, which was applied, is replaced by what identifies its event (arrays in step).
-- Returns the ids of those that were not blank. Refuses where the database is fenced: a standby may have everything
-- already, and would keep them.
-- Index: quarantine_pkey, slice_pkey. Locks: the rows, in the order of quarantine_inputs.
with held as materialized (
    select quarantine.id, erased.edited_value
    from unnest(:ids::bigint[], :edited_values::bytea[]) as erased (id, edited_value)
    inner join els.quarantine
        on quarantine.id = any(array[erased.id])
    where quarantine.erased_at is null
        and (select els.check_slice())
    order by row(quarantine.topic, quarantine.fingerprint)
    for no key update of quarantine
)
update els.quarantine
set key = null,
    value = null,
    edited_value = held.edited_value,
    original_file_name = null,
    headers = '[]',
    error = '[erased]',
    erased_at = transaction_timestamp()
from held
where quarantine.id = any(array[held.id])
returning quarantine.id
