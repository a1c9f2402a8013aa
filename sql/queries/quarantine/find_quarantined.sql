-- Finds a rejected input by what identifies it in any copy of the database. Returns its id, its state, and the value
-- that an operator has sent in its place.
-- Index: quarantine_fingerprint_key. Locks: none.
select id, state, edited_value
from els.quarantine
where topic = :topic
    and fingerprint = :fingerprint
