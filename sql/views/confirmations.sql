-- Shows each confirmation of a class. One batch is found by the primary key (batch_id, class_id), and those that wait by
-- index confirmations_waiting; without a condition, all are read.

create view ops.confirmations as
select
    batch_id,
    class_id,
    state,
    associations,
    stored_at,
    now() - stored_at as age,
    correlation_id
from els.own_confirmations as confirmations;

comment on view ops.confirmations is
    'Each confirmation of the students of a batch.';
comment on column ops.confirmations.batch_id is 'the batch';
comment on column ops.confirmations.class_id is 'the class that it names; empty where it names none';
comment on column ops.confirmations.state is 'pending: waits for the registration; applied: in effect; unused: changed nothing, since the batch has no class or another one, has failed, was cancelled, or was confirmed before';
comment on column ops.confirmations.associations is 'length of its list of associations';
comment on column ops.confirmations.stored_at is 'when it was stored';
comment on column ops.confirmations.age is 'time since stored_at';
comment on column ops.confirmations.correlation_id is 'correlation id of the confirmation';
