-- Counts what a split would delete in the database that becomes `cell` of `cells`, by table.
-- Index: none, the tables are read whole. Locks: none.
select held.name, count(*)
from (
    select 'outbox_pages' as name, els.cell_of(batch_id, :cells::integer) as cell
    from els.outbox_pages
    union all
    select 'outbox', els.cell_of(aggregateid, :cells::integer)
    from els.outbox
    union all
    select 'outbox_blocked', els.cell_of(batch_id, :cells::integer)
    from els.outbox_blocked
    union all
    select 'pending_content', els.cell_of(batch_id, :cells::integer)
    from els.pending_content
    union all
    select 'validation_failures', els.cell_of(batch_id, :cells::integer)
    from els.validation_failures
    union all
    select 'confirmations', els.cell_of(batch_id, :cells::integer)
    from els.confirmations
    union all
    select 'incomplete_batches', els.cell_of(batch_id, :cells::integer)
    from els.incomplete_batches
    union all
    select 'quarantine', coalesce(els.cell_of(batch_id, :cells::integer), "partition" & (:cells::integer - 1))
    from els.quarantine
) as held
where held.cell / (:cells::integer / 2) <> :cell::integer / (:cells::integer / 2)
group by held.name
order by held.name
