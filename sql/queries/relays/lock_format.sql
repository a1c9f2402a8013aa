-- Locks the row that says whether events are written for relays of the previous release. Returns no row once they
-- are not. A relay of the previous release locks it while it renews its lease.
-- Index: outbox_format_pkey. Locks: that row.
select true
from els.outbox_format
where not pages
for update
