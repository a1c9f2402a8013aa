-- Shows each pod with what it has reported of itself within the last ten minutes, also while the broker is down. Reads a
-- row for each pod. Pods of release 0.1 report nothing.

create view ops.pods as
select
    pod,
    els.shown(host) as host,
    els.shown(release) as release,
    roles,
    started_at,
    seen_at,
    seen_at > now() - interval '30 seconds' as is_alive,
    els.shown_lines(errors::text)::text [] as errors,
    not_ready_since,
    els.shown_lines(broker_error) as broker_error,
    broker_away_since,
    partitions,
    lag,
    applied_at
from els.pods
order by pods.host, pod;

comment on view ops.pods is
    'The pods of the service, each as it has reported itself every few seconds; one that stopped in order has no row any more.';
comment on column ops.pods.pod is 'identity of the pod, new at each start';
comment on column ops.pods.host is 'name of its host and number of its process';
comment on column ops.pods.release is 'version of the code that it runs';
comment on column ops.pods.roles is 'what it does: consumer, relay, purge, console; or replay';
comment on column ops.pods.started_at is 'when it reported for the first time';
comment on column ops.pods.seen_at is 'when it reported last';
comment on column ops.pods.is_alive is 'whether that was within the last 30 seconds';
comment on column ops.pods.errors is 'why it is not ready: the parts of /readyz that are not, and the purge';
comment on column ops.pods.not_ready_since is 'since when it is not ready; null where it is';
comment on column ops.pods.broker_error is 'why it can reach no broker; null where it can';
comment on column ops.pods.broker_away_since is 'since when it can reach no broker';
comment on column ops.pods.partitions is 'input partitions that it has; null where it does not consume';
comment on column ops.pods.lag is 'records that wait in them, as far as it knows';
comment on column ops.pods.applied_at is 'when it last applied something, or had nothing left to apply';
