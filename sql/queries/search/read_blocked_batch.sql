-- Returns why the events of a batch cannot be published, if they cannot.
-- Index: outbox_blocked_pkey. Locks: none.
select topic, left(error, 1000) as error, since, retry_at, seq
from els.own_outbox_blocked as outbox_blocked
where batch_id = :batch_id
