-- What is still to be published. Reads the whole outbox, which holds nothing else.

create view ops.outbox_backlog as
select
    type as topic,
    count(*) as rows,
    min(created_at) as oldest,
    now() - min(created_at) as age
from els.outbox
group by type;

comment on view ops.outbox_backlog is
    'Each topic that events wait for.';
comment on column ops.outbox_backlog.topic is 'the topic, which is also the type of the event';
comment on column ops.outbox_backlog.rows is 'events that are not published yet';
comment on column ops.outbox_backlog.oldest is 'when the first of them was written';
comment on column ops.outbox_backlog.age is 'time since oldest';
