-- Returns whether there is a tombstone with this digest, in hexadecimal.
-- Index: erasures_pkey. Locks: none.
select exists (
    select
    from els.erasures
    where digest = decode(:digest, 'hex')
)
