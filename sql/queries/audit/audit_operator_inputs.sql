-- Reads the values that operators have sent in place of rejected inputs, for an audit: these are inputs, too.
-- Index: none, the whole table is read. Locks: none.
select topic, "partition", "offset", key, edited_value, closed_at
from els.quarantine
where edited_value is not null
