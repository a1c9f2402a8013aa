-- Returns the batches whose content expired last and was neither restored nor removed, the latest first: among the 10,000
-- contents that expired last.
-- Index: pending_content_expired. Locks: none.
with expired as (
    select batch_id, closed_at
    from els.pending_content
    where state = 'expired'
    order by closed_at desc
    limit 10000
)
select batch_id, count(*) as contents, max(closed_at) as expired_at
from expired
group by batch_id
order by expired_at desc, batch_id
limit :page
