-- Returns the pods, each as it has reported itself.
-- Index: none (a row for each pod). Locks: none.
select host, release, roles, started_at, seen_at, is_alive, errors, broker_error, partitions, lag
from ops.pods
