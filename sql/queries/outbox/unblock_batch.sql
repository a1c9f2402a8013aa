-- Unblocks batches whose blocked row was published after all: the relay reads them with the others again.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: outbox_blocked_pkey. Locks: the rows of these batches, in the order of their ids.
delete from els.outbox_blocked as blocked
using (
    select unblocked.batch_id
    from unnest(:batch_ids::text[]) as unblocked (batch_id)
    order by unblocked.batch_id
) as unblocked
where blocked.batch_id = any(array[unblocked.batch_id])
