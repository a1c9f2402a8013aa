-- Shows what is still to be published. The first 2,000 rows of the outbox are read (indexes outbox_pages_pkey and
-- outbox_seq), so that it may be queried every second while millions of events wait; where there are more, the rest is
-- estimated, in the same proportions.

create view ops.outbox_backlog as
with head as materialized (
    select topics, created_at
    from els.unpublished
    order by seq
    limit 2000
), read as (
    select count(*) as rows
    from head
), written as (
    select sum(reltuples * pg_relation_size(oid) / current_setting('block_size')::integer / nullif(relpages, 0)) as rows
    from pg_class
    where oid in ('els.outbox_pages'::regclass, 'els.outbox'::regclass)
)
select
    topic.name as topic,
    case
        when read.rows < 2000 then sum(topic.events)
        else sum(topic.events) * greatest(1, written.rows::numeric / read.rows)
    end::bigint as rows,
    min(head.created_at) as oldest,
    now() - min(head.created_at) as age
from head
cross join lateral els.topic_events(head.topics) as topic
cross join read
cross join written
group by topic.name, read.rows, written.rows;

comment on view ops.outbox_backlog is
    'Each topic for which events wait to be published.';
comment on column ops.outbox_backlog.topic is 'the topic, which is also the type of the event';
comment on column ops.outbox_backlog.rows is 'events that are not published yet; an estimate where the outbox has 2,000 rows or more';
comment on column ops.outbox_backlog.oldest is 'when the first of them was written';
comment on column ops.outbox_backlog.age is 'time since oldest';
