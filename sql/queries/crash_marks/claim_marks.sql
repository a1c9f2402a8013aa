-- A pod takes partitions over: returns what their owners before it left behind. A mark of another pod that is still
-- there was not given back, so its owner died (or hangs). A single record has one more death to its name only where
-- that owner had it in hand: one that died before it came to the record died of something else. A pod's own mark
-- tells of a database that was away when it was to be released, and of no death.
-- Index: crash_marks_pkey. Locks: the partitions' rows, in order.
with found as materialized (
    select
        marks.topic, marks."partition", marks."offset", marks.records,
        marks.deaths + case when marks.records = 1 and marks.in_hand then 1 else 0 end as deaths
    from els.crash_marks as marks
    inner join unnest(:topics::text[], :partitions::bigint[]) as assigned (topic, "partition")
        on marks.topic = assigned.topic
        and marks."partition" = assigned."partition"
    where marks.pod <> :pod
    order by marks.topic, marks."partition"
    for update of marks
),
claimed as (
    insert into els.crash_marks (topic, "partition", "offset", records, deaths, in_hand, pod, marked_at)
    select topic, "partition", 0, null, 0, false, :pod, transaction_timestamp()
    from unnest(:topics::text[], :partitions::bigint[]) as assigned (topic, "partition")
    order by topic, "partition"
    on conflict (topic, "partition") do update
    set pod = excluded.pod,
        deaths = crash_marks.deaths + case
            when crash_marks.records = 1 and crash_marks.in_hand and crash_marks.pod <> excluded.pod then 1
            else 0
        end,
        in_hand = false,
        marked_at = excluded.marked_at
)
select topic, "partition", "offset", records, deaths
from found
