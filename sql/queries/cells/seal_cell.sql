-- Notes that nobody changes the fenced database any more. A standby that shows this has everything. Returns nothing
-- where the database is behind its topics, or is being recovered.
-- Index: transfer_pkey, recovery_pkey. Locks: the row.
update els.transfer
set state = 'sealed'
where run = :run::uuid
    and state = 'fenced'
    and not exists (select from els.recovery)
returning run
