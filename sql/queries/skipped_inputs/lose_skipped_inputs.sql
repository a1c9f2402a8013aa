-- Notes offsets that are skipped as lost and seen: in a row of its own, or in the one of fewer offsets that were
-- skipped from there on before. Returns no row where all of them are noted. Another log of the topic may have lost the
-- same offsets earlier. A statement of its own, after skip_inputs, so that it sees what that one waited for.
-- Index: none, the table has a row for each loss. Locks: the row.
with known as materialized (
    select id, next_offset
    from els.lost_inputs
    where topic = :topic
        and "partition" = :partition
        and first_offset = :first_offset
        and cause = 'skipped'
        and noticed_at >= :skipped_at
),
widened as (
    update els.lost_inputs
    set next_offset = :next_offset
    from known
    where lost_inputs.id = known.id
        and known.next_offset < :next_offset
    returning lost_inputs.id
),
lost as (
    insert into els.lost_inputs (topic, "partition", first_offset, next_offset, cause, acknowledged_at)
    select :topic, :partition, :first_offset, :next_offset, 'skipped', transaction_timestamp()
    where not exists (select from known)
    returning id
)
select id from widened
union all
select id from lost
