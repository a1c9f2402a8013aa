-- Notes that the clocks agreed in a round, and ends the hold where they did so in as many rounds as are needed. A hold
-- that nobody has acknowledged leaves a notice.
-- Index: purge_hold_pkey. Locks: the row.
with ended as (
    delete from els.purge_hold
    where agreed + 1 >= :rounds::integer
    returning why, since, acknowledged_at
), noted as (
    insert into els.notices (kind, detail)
    select 'clocks', format('the purge was held since %s: %s', date_trunc('second', since), why)
    from ended
    where acknowledged_at is null
)
update els.purge_hold
set agreed = agreed + 1
where agreed + 1 < :rounds
