-- A pod gives partitions back in peace: whatever happens to it now is no record's fault.
-- Index: crash_marks_pkey. Locks: the rows.
delete from els.crash_marks
using unnest(:topics::text[], :partitions::bigint[]) as released (topic, "partition")
where crash_marks.topic = released.topic
    and crash_marks."partition" = released."partition"
    and crash_marks.pod = :pod
