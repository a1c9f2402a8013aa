-- Notes that nobody changes the fenced database any more. A standby that shows this has everything. Takes the shards
-- from the relays once more: one that had passed its check before the fence may have taken them behind it, for a whole
-- lease. Returns nothing where the database is behind its topics, or is being recovered.
-- Index: transfer_pkey, recovery_pkey, relays_pkey, relay_shards_pkey. Locks: these rows.
with sealed as (
    update els.transfer
    set state = 'sealed'
    where run = :run::uuid
        and state = 'fenced'
        and not exists (select from els.recovery)
    returning run
), forgotten as (
    delete from els.relays
    where exists (select from sealed)
), freed as (
    update els.relay_shards
    set relay = null
    where exists (select from sealed)
        and relay is not null
)
select run
from sealed
