-- Returns the topics for which events wait to be published.
-- Index: those of ops.outbox_backlog. Locks: none.
select topic, rows as events, oldest
from ops.outbox_backlog
order by oldest
