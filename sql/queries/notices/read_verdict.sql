-- Reads the verdict of ops.health: the level, and each of its lines with its kind.
-- Index: those of ops.health. Locks: none.
select level, action_kinds, actions, notice_kinds, notices
from ops.health
