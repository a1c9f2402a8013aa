-- Marks partitions as this pod's, and returns the marks that other pods left. A mark of another pod was not released,
-- so that pod crashed (or hangs). A crash counts against a single record, or against a batch that was unpacked, only
-- where the pod was handling it: a pod that crashed before it came to the record crashed for another reason. A mark of
-- this same pod means that the database was unavailable when the mark should have been released, and counts no crash.
-- Refuses where the database holds another slice: pods of before a split leave their group one after the other.
-- Index: crash_marks_pkey, slice_pkey. Locks: the partitions' rows, in order.
with found as materialized (
    select
        marks.topic, marks."partition", marks."offset", marks.records,
        marks.deaths + case when (marks.records = 1 or marks.unpacking) and marks.in_hand then 1 else 0 end as deaths,
        marks.unpacking
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
    where (select els.check_slice())
    order by topic, "partition"
    on conflict (topic, "partition") do update
    set pod = excluded.pod,
        deaths = crash_marks.deaths + case
            when (crash_marks.records = 1 or crash_marks.unpacking)
                and crash_marks.in_hand
                and crash_marks.pod <> excluded.pod then 1
            else 0
        end,
        in_hand = false,
        marked_at = excluded.marked_at
)
select topic, "partition", "offset", records, deaths, unpacking
from found
