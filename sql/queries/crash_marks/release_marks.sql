-- Removes this pod's marks of partitions that it gives back in order: a crash after that counts against no record.
-- Index: crash_marks_pkey. Locks: the rows.
delete from els.crash_marks
using unnest(:topics::text[], :partitions::bigint[]) as released (topic, "partition")
where crash_marks.topic = released.topic
    and crash_marks."partition" = released."partition"
    and crash_marks.pod = :pod
