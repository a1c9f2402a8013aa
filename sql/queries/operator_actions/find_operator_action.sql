-- Returns whether an operator action is in the log, as it was performed first or repeated by a recovery. `identity` is
-- what distinguishes it from others of the same moment.
-- Index: operator_actions_at. Locks: none.
select exists (
    select
    from els.operator_actions
    where at >= :at
        and who = :who
        and action = :action
        and batch_id is not distinct from :batch_id
        and topic is not distinct from :topic
        and details @> :identity::jsonb
        and coalesce((details ->> 'first_at')::timestamptz, at) = :at
)
