-- Notes that a purge round has ended, for ops.health.
-- Index: purge_rounds_pkey. Locks: the row.
insert into els.purge_rounds (ended_at)
values (transaction_timestamp())
on conflict (only_row) do update
set ended_at = excluded.ended_at
