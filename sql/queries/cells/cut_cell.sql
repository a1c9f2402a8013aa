-- Leaves in this database what a pod of its new slice (`cell` of `cells`) must find of what waits, and ends the
-- transfer: deletes the other half of what a pod would act on, and notes that the history of the other half is to
-- be deleted. What neither half loses: offsets, counters and pauses of the topics, crash marks of certain records,
-- the log of operators, erasures. A rejected input that shows no batch belongs to the cell of its partition.
-- Whatever a database has belongs to exactly one of its halves: also what is left of an earlier split.
-- Index: transfer_pkey, slice_pkey; the other tables are read whole. Locks: all that it deletes.
with half as materialized (
    select run, :cells::integer / 2 as before, :cell::integer / (:cells::integer / 2) as upper
    from els.transfer
    where run = :run::uuid
        and state = 'sealed'
    for update
), pages as (
    delete from els.outbox_pages as gone
    using half
    where els.cell_of(gone.batch_id, :cells::integer) / half.before <> half.upper
), events as (
    delete from els.outbox as gone
    using half
    where els.cell_of(gone.aggregateid, :cells::integer) / half.before <> half.upper
), blocked as (
    delete from els.outbox_blocked as gone
    using half
    where els.cell_of(gone.batch_id, :cells::integer) / half.before <> half.upper
), contents as (
    delete from els.pending_content as gone
    using half
    where els.cell_of(gone.batch_id, :cells::integer) / half.before <> half.upper
), failures as (
    delete from els.validation_failures as gone
    using half
    where els.cell_of(gone.batch_id, :cells::integer) / half.before <> half.upper
), confirmed as (
    delete from els.confirmations as gone
    using half
    where els.cell_of(gone.batch_id, :cells::integer) / half.before <> half.upper
), incomplete as (
    delete from els.incomplete_batches as gone
    using half
    where els.cell_of(gone.batch_id, :cells::integer) / half.before <> half.upper
), rejected as (
    delete from els.quarantine as gone
    using half
    where coalesce(els.cell_of(gone.batch_id, :cells::integer), gone."partition" & (:cells::integer - 1))
        / half.before <> half.upper
), gone_pods as (
    delete from els.pods
    where exists (select from half)
), gone_marks as (
    delete from els.crash_marks
    where records is null
        and exists (select from half)
), only_new_code as (
    update els.alembic_version
    set oldest_code = greatest(oldest_code, '0012')
    where exists (select from half)
), sliced as (
    update els.slice
    set cells = :cells::integer,
        cell = :cell::integer,
        since = clock_timestamp(),
        trims = true,
        fenced = false
    where exists (select from half)
), ended as (
    update els.transfer
    set state = 'done',
        ended_at = clock_timestamp()
    from half
    where transfer.run = half.run
)
insert into els.operator_actions (who, action, why, details)
select
    :who, 'cells split', :why,
    jsonb_build_object('run', run, 'state', 'done', 'cells', :cells::integer, 'cell', :cell::integer)
from half
returning at
