-- Shows how far each input partition is applied. Reads a row for each partition.

create view ops.progress as
select
    topic,
    "partition",
    next_offset,
    record_at,
    applied_until,
    epoch,
    previous_release,
    open_transaction_since
from els.progress;

comment on view ops.progress is
    'How far each input partition is applied, as the database itself states it.';
comment on column ops.progress.topic is 'the input topic';
comment on column ops.progress.partition is 'the partition';
comment on column ops.progress.next_offset is 'every record below this offset is applied or in quarantine';
comment on column ops.progress.record_at is 'the time that the last of them states; null where it is not known';
comment on column ops.progress.applied_until is 'everything that the partition had at this time of the database is applied; null where that is not known';
comment on column ops.progress.epoch is 'how often the topic was re-created or truncated under the service';
comment on column ops.progress.previous_release is 'whether a pod of a release that writes no progress has owned the partition since';
comment on column ops.progress.open_transaction_since is 'when a pod noted that a producer''s transaction had been open for a minute: its records, and all behind them, wait for its end';
