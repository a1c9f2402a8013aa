-- Reads what identifies each rejected input, for an audit.
-- Index: none, the whole table is read. Locks: none.
select topic, fingerprint, state
from els.quarantine
