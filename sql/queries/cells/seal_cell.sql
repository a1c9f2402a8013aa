-- Notes that nobody changes the fenced database any more. A standby that shows this has everything.
-- Index: transfer_pkey. Locks: the row.
update els.transfer
set state = 'sealed'
where run = :run::uuid
    and state = 'fenced'
returning run
