-- Shows inputs that a topic lost before they were read. Reads a row for each loss.

create view ops.lost_inputs as
select
    id,
    topic,
    "partition",
    first_offset,
    next_offset,
    next_offset - first_offset as records,
    cause,
    noticed_at,
    acknowledged_at
from els.lost_inputs;

comment on view ops.lost_inputs is
    'Inputs that a topic no longer has and that may not have been read; `health acknowledge` marks them as seen.';
comment on column ops.lost_inputs.id is 'number of the loss';
comment on column ops.lost_inputs.topic is 'the input topic';
comment on column ops.lost_inputs.partition is 'the partition';
comment on column ops.lost_inputs.first_offset is 'the first offset that is missing';
comment on column ops.lost_inputs.next_offset is 'the offset after the last one that is missing';
comment on column ops.lost_inputs.records is 'number of missing offsets: the most records that there were';
comment on column ops.lost_inputs.cause is 'deleted (unread, by retention or by someone), truncated (the topic ends earlier than before), replaced (it has other records than before; it is read again from its beginning), or skipped (by an operator)';
comment on column ops.lost_inputs.noticed_at is 'when a pod noticed it';
comment on column ops.lost_inputs.acknowledged_at is 'when an operator marked it as seen; null until then';
