-- Returns whether events are written for relays of the previous release, of which a pod may be alive.
-- Index: none, the table has one row. Locks: none.
select not pages
from els.outbox_format
