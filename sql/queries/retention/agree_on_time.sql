-- Notes that the clocks agreed in a round, and ends the hold where they did so in as many rounds as are needed.
-- Index: purge_hold_pkey. Locks: the row.
with ended as (
    delete from els.purge_hold
    where agreed + 1 >= :rounds::integer
)
update els.purge_hold
set agreed = agreed + 1
where agreed + 1 < :rounds
