-- Shows the numbers to read first, what needs an action, and what an operator should have seen. Reads only rows that
-- wait or are open, never slots or anything else that has a history, and of those rows only the first. So it may be
-- queried every second while millions wait: counts are exact up to 50,000 contents, 50,000 rejected inputs and 2,000 rows of the outbox, and
-- estimates from statistics above that. Indexes pending_content_due, pending_content_expired, validation_failures_due,
-- validation_failures_expired, outbox_pages_pkey, outbox_seq, quarantine_open, lost_inputs_open, notices_open,
-- batches_unconfirmed, batches_late_reported.
-- After a split, rows of the other half that wait are deleted in the cut itself: tables of such rows are read as they are,
-- from the indexes alone.

-- Returns the age of the oldest transaction of all users. It runs as the owner, so that the caller needs no right to
-- see the sessions of others.
create or replace function els.oldest_transaction() returns interval
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select clock_timestamp() - min(began)
    from (
        select xact_start as began
        from pg_stat_activity
        where datname = current_database()
        and backend_type = 'client backend'
        and pid <> pg_backend_pid()
        union all
        select prepared
        from pg_prepared_xacts
        where database = current_database()
    ) as transactions
$$;

-- Returns what else keeps dead rows from being removed, apart from transactions: standbys that report what they still
-- read (hot_standby_feedback), through their slot or without one, and replication slots that nobody uses, which keep WAL,
-- too. `transactions` is how many are newer than the oldest that is still seen; null where only rows of catalogs are kept.
-- It runs as the owner, who sees the standbys.
create or replace function els.held_back()
returns table (name text, transactions bigint, inactive_since timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select slot_name::text, age(xmin)::bigint, inactive_since
    from pg_replication_slots
    where wal_status is distinct from 'lost'
    union all
    select application_name, age(backend_xmin)::bigint, null
    from pg_stat_replication
    where backend_xmin is not null
$$;

create view ops.health as
with held_back as materialized (
    select name, coalesce(transactions, 0) as transactions, inactive_since < now() - interval '5 minutes' as is_inactive
    from els.held_back()
), estimates as materialized (
    -- rows per page at the last vacuum or analyze, times the pages that there are
    select oid, reltuples * pg_relation_size(oid) / current_setting('block_size')::integer / nullif(relpages, 0) as rows
    from pg_class
    where oid in (
        'els.pending_content_due'::regclass,
        'els.outbox_pages'::regclass,
        'els.outbox'::regclass,
        'els.quarantine_open'::regclass
    )
), waiting as materialized (
    select batch_id, waiting_since
    from els.pending_content
    where state = 'pending'
    order by waiting_since
    limit 10000
), waited_for as (
    select batch_id
    from waiting
    union
    (
        select batch_id
        from els.validation_failures
        where state = 'pending'
        order by waiting_since
        limit 10000
    )
), counted as materialized (
    select
        (
            select count(*)
            from (
                select from els.pending_content
                where state = 'pending'
                order by waiting_since
                limit 50000
            ) as head
        ) as pending,
        (
            select count(*)
            from (
                select from els.quarantine
                where state = 'open'
                order by id
                limit 50000
            ) as head
        ) as quarantine_open,
        (
            select count(*)
            from (
                select from els.own_pending_content as pending_content
                where state = 'expired'
                and closed_at > now() - interval '1 day'
                order by closed_at desc
                limit 50000
            ) as head
        ) as expired_last_day
), head as materialized (
    select topics, created_at
    from els.unpublished
    order by seq
    limit 2000
), unpublished as (
    select
        (select count(*) from head) as rows,
        (select min(created_at) from head) as oldest,
        (
            select coalesce(sum(topic.events), 0)
            from head
            cross join lateral els.topic_events(head.topics) as topic
        ) as events
), numbers as materialized (
    select
        case
            when counted.pending < 50000 then counted.pending
            else greatest(
                counted.pending,
                (select estimates.rows from estimates where oid = 'els.pending_content_due'::regclass)
            )::bigint
        end as pending,
        (select min(waiting_since) from waiting) as oldest_pending,
        (select count(*) from waited_for) as batches_waiting,
        counted.expired_last_day,
        case
            when unpublished.rows < 2000 then unpublished.events
            else unpublished.events * greatest(
                1,
                (
                    select sum(estimates.rows) / 2000
                    from estimates
                    where oid in ('els.outbox_pages'::regclass, 'els.outbox'::regclass)
                )
            )
        end::bigint as outbox_rows,
        unpublished.oldest as oldest_outbox_row,
        (select count(*) from els.outbox_blocked) as outbox_blocked,
        (select count(*) from els.relays where relays.expires_at > now()) as relays,
        case
            when counted.quarantine_open < 50000 then counted.quarantine_open
            else greatest(
                counted.quarantine_open,
                (select estimates.rows from estimates where oid = 'els.quarantine_open'::regclass)
            )::bigint
        end as quarantine_open,
        (select count(*) from els.topic_refusals where topic_refusals.stopped_at is not null) as topics_stopped,
        els.oldest_transaction() as oldest_transaction,
        (select coalesce(max(held_back.transactions), 0) from held_back) as held_back_transactions,
        (select count(*) from held_back where held_back.is_inactive) as inactive_slots,
        (select count(*) from els.lost_inputs where lost_inputs.acknowledged_at is null) as lost_inputs,
        (select greatest(1, coalesce(recovery.records, 1)) from els.recovery) as behind_records,
        (
            select min(progress.applied_until)
            from els.progress
            left join els.input_topics as known on progress.topic = known.topic
            where progress."partition" < coalesce(known.partitions, progress."partition" + 1)
        ) as applied_until
    from counted
    cross join unpublished
), living as materialized (
    select
        roles, errors, not_ready_since, broker_error, broker_away_since, lag, applied_at,
        broker_error is null and not_ready_since < now() - interval '15 seconds' as is_failing
    from els.pods
    where seen_at > now() - interval '30 seconds'
), conditions as materialized (
    select place, kind, needs_action, line, format('%s (docs/%s)', line, runbook) as advice
    from numbers
    cross join lateral (
        values
        (10, 'recovery', true, 'operations.md#elsdatabasebehind', (
            select case state
                when 'behind' then 'the database is behind its topics (' || why || '): run recover'
                else 'the database is being recovered: ' || why
            end
            from els.recovery
        )),
        (11, 'broker', true, 'operations.md#broker-down', (
            select format(
                '%s of %s pods cannot reach the broker since %s (%s): ops.pods',
                count(*) filter (where broker_error is not null),
                count(*),
                to_char(min(broker_away_since) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'),
                els.shown(left(min(broker_error), 200))
            )
            from living
            having bool_or(broker_error is not null)
        )),
        (12, 'pods', true, 'operations.md#elspartunhealthy', (
            select format(
                '%s of %s pods are not ready since %s (%s): ops.pods',
                count(*) filter (where is_failing),
                count(*),
                to_char(min(not_ready_since) filter (where is_failing) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'),
                els.shown(left(min(errors[1]) filter (where is_failing), 200))
            )
            from living
            where behind_records is null
            having bool_or(is_failing)
        )),
        (13, 'consumers', true, 'operations.md#a-pod-does-not-start', case when not exists (
            select from living where 'consumer' = any(roles)
        ) and (select pages from els.outbox_format) then
            'no pod consumes: nothing is applied'
        end),
        (14, 'lag', true, 'operations.md#elsconsumerlaggrows', (
            select format(
                '%s records wait (consumer lag), and nothing was applied for more than a minute: ops.pods', sum(lag)
            )
            from living
            where lag > 0
            and broker_error is null
            and applied_at < now() - interval '1 minute'
            having count(*) > 0
        )),
        -- `els purge` may be run by a timer instead of a pod.
        (15, 'purge', true, 'operations.md#elspurgestuck', case when exists (
            select from living
        ) and not exists (
            select from living where 'purge' = any(roles)
        ) and not exists (
            select from els.purge_rounds where ended_at > now() - interval '1 hour'
        ) and (select pages from els.outbox_format) then
            'no pod purges: nothing expires, and no batch is reported late'
        end),
        (20, 'incomplete_batches', true, 'operations.md#incomplete-batches', (
            select count(*) || ' batches were announced, and their registration is in no topic: ops.incomplete_batches'
            from els.incomplete_batches
            having count(*) > 0
        )),
        (30, 'clocks', true, 'operations.md#elspurgeheld', (
            select
                'the purge is held: ' || why
                || '; correct the clocks, or, where they are right now, run health acknowledge clocks'
            from els.purge_hold
            where acknowledged_at is null
        )),
        (40, 'open_transaction', true, 'operations.md#elsconsumerlaggrows', (
            select format(
                'for more than a minute, records of %s partition %s have waited for the end of a producer''s'
                ' transaction: ops.progress', topic, "partition"
            )
            from els.progress
            where open_transaction_since is not null
            order by topic, "partition"
            limit 1
        )),
        (50, 'progress', true, 'operations.md#elspurgeheld', case when applied_until < now() - interval '1 hour' then
            'for more than an hour, a partition has not been applied to its end, so nothing expires: ops.progress'
        end),
        (60, 'paused_topics', true, 'operations.md#elstopicpaused', case when topics_stopped > 0 then
            topics_stopped || ' input topics are paused: ops.stopped_topics'
        end),
        (70, 'output_topics', true, 'kafka.md#add-partitions', (
            select format(
                '%s has %s partitions, and events go to the first %s only: ops.output_topics', topic, found, partitions
            )
            from els.output_topics
            where found <> partitions
            order by topic
            limit 1
        )),
        (80, 'relays', true, 'operations.md#elsnorelay', case when relays = 0 then
            'no pod publishes events'
        end),
        (90, 'outbox', true, 'operations.md#elsoutboxnotdraining', case when oldest_outbox_row < now() - interval '30 seconds' then
            'events have waited more than 30 seconds to be published: ops.outbox_backlog'
        end),
        (100, 'outbox_blocked', true, 'operations.md#elsoutboxblocked', case when outbox_blocked > 0 then
            format(
                '%s batches can not be published (%s): ops.outbox_blocked',
                outbox_blocked,
                (select els.shown(left(blocked.error, 200)) from els.outbox_blocked as blocked order by batch_id limit 1)
            )
        end),
        (110, 'quarantine', true, 'operations.md#elsquarantineopen', case when quarantine_open > 0 then
            quarantine_open || ' rejected inputs are open: ops.quarantine'
        end),
        (120, 'pending_content', true, 'operations.md#elspendingcontentold', case when oldest_pending < now() - (
            select make_interval(secs => policy.seconds / 2)
            from els.policy
            where policy.name = 'pending_ttl'
        ) then
            'contents have waited more than half of their time for a registration: ops.pending_batches'
        end),
        (130, 'confirmations', true, 'operations.md#state-is-complete', case when exists (
            select
            from els.own_batches as batches
            where state = 'complete'
            and completed_at < now() - (
                select make_interval(secs => policy.seconds)
                from els.policy
                where policy.name = 'batch_timeout'
            )
        ) then
            'batches are complete, and the confirmation of their class is late: ops.batches'
        end),
        (140, 'transactions', true, 'operations.md#elslongtransaction', case when oldest_transaction > interval '1 minute' then
            'a transaction is older than a minute and keeps dead rows: pg_stat_activity'
        end),
        (150, 'replication_slots', true, 'operations.md#elsreplicationslotinactive', (
            select
                'replication slots are inactive for more than 5 minutes and keep WAL and dead rows ('
                || string_agg(els.shown(name), ', ' order by name)
                || '): pg_replication_slots'
            from held_back
            where is_inactive
        )),
        (160, 'standbys', true, 'operations.md#elsvacuumheldback', (
            select
                'dead rows of more than 20,000 transactions are kept for a standby ('
                || string_agg(els.shown(name), ', ' order by name)
                || '): pg_stat_replication'
            from held_back
            where transactions > 20000
            and is_inactive is not true
        )),
        (500, 'lost_inputs', false, 'operations.md#elsinputslost', case when lost_inputs > 0 then
            lost_inputs || ' times an input topic lost records that may not have been read: ops.lost_inputs'
        end),
        (510, 'expired_content', false, 'operations.md#elscontentexpired', (
            select concat_ws(
                ' and ',
                case when contents > 0 then case when contents > 1000 then 'more than 1,000' else contents::text end || ' contents expired: ops.expired_content' end,
                case
                    when failures > 0
                        then case when failures > 1000 then 'more than 1,000' else failures::text end || ' validation failures expired: ops.validation_failures'
                end
            )
            from (
                select
                    (
                        select count(*)
                        from (
                            select
                            from els.own_pending_content as pending_content
                            where state = 'expired'
                            and closed_at > (select expired_seen.until from els.expired_seen)
                            order by closed_at desc
                            limit 1001
                        ) as unseen
                    ) as contents,
                    (
                        select count(*)
                        from (
                            select
                            from els.own_validation_failures as validation_failures
                            where state = 'expired'
                            and closed_at > (select expired_seen.until from els.expired_seen)
                            order by closed_at desc
                            limit 1001
                        ) as unseen
                    ) as failures
            ) as expired
            where contents + failures > 0
        )),
        -- Those that still wait: a batch that has its uploads by now is no news.
        (515, 'late_batches', false, 'operations.md#elsbatcheslate', (
            select
                case when late > 1000 then 'more than 1,000' else late::text end
                || ' batches were reported as late, and still wait for uploads: ops.batches'
            from (
                select count(*) as late
                from (
                    select
                    from els.own_batches as batches
                    where state = 'registered'
                    and timed_out_at > (select expired_seen.late_until from els.expired_seen)
                    order by timed_out_at desc
                    limit 1001
                ) as unseen
            ) as counted
            where late > 0
        )),
        (520, 'clocks', false, 'operations.md#elspurgeheld', (
            select els.shown((array_agg(detail order by id desc))[1]) || '; that is over: ops.notices'
            from els.notices
            where acknowledged_at is null
            and notices.kind = 'clocks'
        )),
        (530, 'servers', false, 'recovery.md#failover', (
            select els.shown((array_agg(detail order by id desc))[1]) || ', and nothing was missing in it: ops.notices'
            from els.notices
            where acknowledged_at is null
            and notices.kind = 'servers'
        ))
    ) as condition (place, kind, needs_action, runbook, line)
    where line is not null
), judged as (
    select
        coalesce(array_agg(line order by place), '{}') as attention,
        coalesce(array_agg(advice order by place) filter (where needs_action), '{}') as actions,
        coalesce(array_agg(kind order by place) filter (where needs_action), '{}') as action_kinds,
        coalesce(array_agg(advice order by place) filter (where not needs_action), '{}') as notices,
        coalesce(array_agg(kind order by place) filter (where not needs_action), '{}') as notice_kinds
    from conditions
)
select
    cardinality(judged.actions) = 0 as well,
    judged.attention,
    numbers.pending,
    numbers.oldest_pending,
    numbers.batches_waiting,
    numbers.outbox_rows,
    numbers.oldest_outbox_row,
    numbers.outbox_blocked,
    numbers.quarantine_open,
    numbers.topics_stopped,
    numbers.oldest_transaction,
    numbers.expired_last_day,
    numbers.relays,
    coalesce(numbers.behind_records, 0) as behind_records,
    numbers.applied_until,
    numbers.lost_inputs,
    numbers.held_back_transactions,
    numbers.inactive_slots,
    case
        when judged.actions <> '{}' then 'action needed'
        when judged.notices <> '{}' then 'notice'
        else 'fine'
    end as level,
    judged.actions,
    judged.notices,
    judged.action_kinds,
    judged.notice_kinds,
    slice.cell,
    slice.cells
from numbers
cross join judged
left join els.slice on true;

comment on view ops.health is
    'The state of the whole service, in one row; counts above 50,000 are estimates.';
comment on column ops.health.well is 'whether nothing needs an action; there may be notices';
comment on column ops.health.attention is 'what needs an action, then the notices, in words, each with the view that shows more';
comment on column ops.health.pending is 'contents that wait for a registration';
comment on column ops.health.oldest_pending is 'when the longest waiting of them was stored, or restored';
comment on column ops.health.batches_waiting is 'batches that contents or failures wait for, among the 10,000 of each that have waited longest';
comment on column ops.health.outbox_rows is 'events that are not published yet';
comment on column ops.health.oldest_outbox_row is 'when the first of them was written';
comment on column ops.health.outbox_blocked is 'batches whose next event could not be published';
comment on column ops.health.quarantine_open is 'rejected inputs that are neither replayed nor discarded';
comment on column ops.health.topics_stopped is 'input topics that are paused after too many consecutive rejections';
comment on column ops.health.oldest_transaction is 'age of the oldest transaction in this database, except this one; an old one keeps dead rows from being removed';
comment on column ops.health.expired_last_day is 'contents whose registration did not come, expired in the last 24 hours and not restored or reconciled since';
comment on column ops.health.relays is 'pods that publish events';
comment on column ops.health.behind_records is 'how many records the database is behind its topics, at least 1 while it is behind or in recovery, else 0';
comment on column ops.health.applied_until is 'everything that the input topics had at this time is applied, of the partitions of which that is known';
comment on column ops.health.lost_inputs is 'losses of inputs that no operator has acknowledged';
comment on column ops.health.held_back_transactions is 'dead rows of so many transactions are kept for a standby or a replication slot';
comment on column ops.health.inactive_slots is 'replication slots that nobody has used for 5 minutes; they keep WAL and dead rows';
comment on column ops.health.level is 'the worst that there is: "action needed", "notice" (only what has happened, until an operator has seen it) or "fine"';
comment on column ops.health.actions is 'what needs an action, each with the view that shows more and the section of the runbook that says what to do';
comment on column ops.health.notices is 'what has happened and needs no action any more; `health acknowledge` marks it as seen';
comment on column ops.health.action_kinds is 'the kind of each of the actions, in the same order';
comment on column ops.health.notice_kinds is 'the kind of each of the notices, in the same order, as `health acknowledge` takes it';
comment on column ops.health.cell is 'the number of the cell of this database';
comment on column ops.health.cells is 'the number of cells that share the batches; 1 means all batches are here';
