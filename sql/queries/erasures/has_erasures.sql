-- Returns whether there are tombstones.
-- Index: erasures_pkey. Locks: none.
select exists (select from els.erasures)
