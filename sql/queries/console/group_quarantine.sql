-- Counts the open rejected inputs by topic, reason and release (`unknown`: one before 0.2.0), the most frequent first:
-- among the 50,000 oldest.
-- Index: quarantine_open. Locks: none.
with head as (
    select id, topic, reason, coalesce(release, 'unknown') as release, first_seen_at, last_seen_at
    from els.own_quarantine as quarantine
    where state = 'open'
    order by id
    limit 50000
)
select
    topic, reason, release, count(*) as inputs, min(first_seen_at) as first_seen_at, max(last_seen_at) as last_seen_at,
    max(id) as latest_id
from head
group by topic, reason, release
order by inputs desc, topic, reason, release
