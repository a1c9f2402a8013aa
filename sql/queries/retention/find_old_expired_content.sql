-- Expired content that nobody restored and no registration came for, the oldest first. A look only.
-- Index: pending_content_expired. Locks: none.
select batch_id, text_storage_id
from els.pending_content
where state = 'expired'
    and closed_at <= :due::timestamptz
    and batch_id <> all(:passed::text[])
order by closed_at
limit :page
