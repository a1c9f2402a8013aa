-- Shows the batches that were announced, and whose registration is in no topic. Reads a row for each.

create view ops.incomplete_batches as
select
    batch_id,
    json_array_length(announcements) as announcements,
    noticed_at
from els.own_incomplete_batches as incomplete_batches;

comment on view ops.incomplete_batches is
    'Batches that were announced, and whose registration a recovery has found in no topic. Their content waits and does not expire. Have the registration sent again, and run `recover`.';
comment on column ops.incomplete_batches.batch_id is 'the batch';
comment on column ops.incomplete_batches.announcements is 'how many events of it the output topics had';
comment on column ops.incomplete_batches.noticed_at is 'when a recovery noted it';
