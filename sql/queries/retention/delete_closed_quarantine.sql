-- Deletes rejected inputs that were replayed or discarded, at the end of their retention. Open ones stay, and so do
-- those that were delivered again within the retention: their topic still has them.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: quarantine_closed, quarantine_pkey. Locks: the rows, skipping those that others hold.
with old as materialized (
    select id
    from els.quarantine
    where closed_at <= :due::timestamptz
        and last_seen_at <= :due::timestamptz
        and (els.cell_of(batch_id, (select cells from els.slice)) = (select cell from els.slice)) is not false
    order by closed_at
    limit :page
    for update skip locked
)
delete from els.quarantine
using old
where quarantine.id = any(array[old.id])
returning quarantine.topic, quarantine.id
