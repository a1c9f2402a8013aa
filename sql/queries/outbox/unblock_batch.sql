-- Batches whose blocked row was published after all go with the others again.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_blocked_pkey. Locks: the rows of these batches, in the order of their ids.
delete from els.outbox_blocked as blocked
using (
    select cured.batch_id
    from unnest(:batch_ids::text[]) as cured (batch_id)
    order by cured.batch_id
    offset 0
) as cured
where blocked.batch_id = any(array[cured.batch_id])
