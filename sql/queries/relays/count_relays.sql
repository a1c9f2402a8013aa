-- Counts the relays that run: those whose lease has not ended.
-- Index: none, a row for each relay. Locks: none.
select count(*)
from els.relays
where expires_at > clock_timestamp()
