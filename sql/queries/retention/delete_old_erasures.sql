-- Deletes tombstones of long ago.
-- Index: none, the whole table is read. Locks: the rows.
delete from els.erasures
where digest = any(array(
    select digest
    from els.erasures
    where erased_at <= :due::timestamptz
    limit :page
))
returning kind, encode(digest, 'hex')
