-- Deletes operator actions at the end of their retention. Nobody changes these rows, so none is locked first.
-- Written so that it can only be planned as probes: docs/decisions/0003-plans.md.
-- Index: operator_actions_at, operator_actions_pkey. Locks: the rows.
with old as materialized (
    select id
    from els.own_operator_actions
    where at <= :due::timestamptz
    order by at
    limit :page
)
delete from els.operator_actions
using old
where operator_actions.id = any(array[old.id])
returning operator_actions.action, operator_actions.id
