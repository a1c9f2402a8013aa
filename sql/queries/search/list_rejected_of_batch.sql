-- Returns the rejected inputs of a batch, the open ones first: those that name it, and open registrations with its key.
-- Index: quarantine_batch, quarantine_open_registrations. Locks: none.
select
    id, state, topic, reason, left(error, 1000) as error, first_seen_at,
    left(original_file_name, 255) as original_file_name, correlation_id
from (
    select id, state, topic, reason, error, first_seen_at, original_file_name, correlation_id
    from els.own_quarantine as quarantine
    where batch_id = :batch_id
    union
    select id, state, topic, reason, error, first_seen_at, original_file_name, correlation_id
    from els.own_quarantine as quarantine
    where state = 'open'
        and topic = 'huleedu.batch.essays.registered.v1'
        and md5(key) = md5(convert_to(:batch_id, 'UTF8'))
) as rejected
order by state = 'open' desc, id desc
limit :page
