-- Returns what operators did with a rejected input, the newest first: among the newest actions since it was first
-- rejected, and until it was closed (null: it is open).
-- Index: operator_actions_at. Locks: none.
select id, at, who, action, batch_id, topic, why, details
from (
    select *
    from els.operator_actions
    where at >= :since::timestamptz
        and (:until::timestamptz is null or at <= :until)
    order by at desc
    limit :recent
) as recent
where action in ('quarantine replay', 'quarantine edit', 'quarantine discard')
    and (topic is null or topic = :topic)
    and details ->> 'id' = :id
order by id desc
limit :page
