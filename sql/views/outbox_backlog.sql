-- Shows what is still to be published. Of each shard the first 500 events are read (index outbox_order), so that it may
-- be queried every second while millions wait; where there are more, the rest is estimated, in the same proportions.

create view ops.outbox_backlog as
with head as materialized (
    select shards.shard, head.topic, head.created_at
    from generate_series(0, 63) as shards (shard)
    cross join lateral (
        select type as topic, created_at
        from els.outbox
        where outbox.shard = shards.shard::smallint
        order by seq
        limit 500
    ) as head
), shards as (
    select count(*) as rows
    from head
    group by shard
), read as (
    select sum(rows) as rows, max(rows) = 500 as cut
    from shards
), written as (
    select reltuples * pg_relation_size(oid) / current_setting('block_size')::integer / nullif(relpages, 0) as rows
    from pg_class
    where oid = 'els.outbox'::regclass
)
select
    head.topic,
    case
        when read.cut then count(*) * greatest(1, written.rows::numeric / read.rows)
        else count(*)
    end::bigint as rows,
    min(head.created_at) as oldest,
    now() - min(head.created_at) as age
from head
cross join read
cross join written
group by head.topic, read.rows, read.cut, written.rows;

comment on view ops.outbox_backlog is
    'Each topic for which events wait to be published.';
comment on column ops.outbox_backlog.topic is 'the topic, which is also the type of the event';
comment on column ops.outbox_backlog.rows is 'events that are not published yet; an estimate where a shard has 500 or more';
comment on column ops.outbox_backlog.oldest is 'when the first of them was written';
comment on column ops.outbox_backlog.age is 'time since oldest';
