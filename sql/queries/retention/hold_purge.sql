-- Notes that the clocks of the database and of a pod do not agree. What an operator has acknowledged stays so as long
-- as they are apart by about as much as then.
-- Index: purge_hold_pkey. Locks: the row.
insert into els.purge_hold as hold (why, seconds_apart)
values (:why, :seconds_apart)
on conflict (only_row) do update
set why = excluded.why,
    seconds_apart = excluded.seconds_apart,
    agreed = 0,
    acknowledged_at = null
where hold.acknowledged_at is null
    or abs(hold.seconds_apart - excluded.seconds_apart) > :tolerance
