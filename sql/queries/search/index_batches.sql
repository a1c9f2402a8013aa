-- Writes the rows of the search for batches, or writes them anew. `ids` has four bytes of a hash for each id of the
-- batch: a search finds what contains the bytes, and then reads the batch itself. `prefixes` has the same of the first
-- eight characters of each id, `names` the file names as els.folded compares them.
-- Index: the primary keys. Locks: the new rows; the caller has the lock of lock_search.
insert into els.search (batch_id, registered_at, changed_at, names, ids, prefixes, first_at)
select
    batches.batch_id, batches.registered_at, greatest(batches.changed_at, found.newest),
    coalesce(els.folded(found.names), ''),
    int4send(hashtext(batches.user_id))
    || coalesce(int4send(hashtext(batches.class_id)), '') || coalesce(int4send(hashtext(batches.org_id)), '')
    || int4send(hashtext(batches.correlation_id::text)) || coalesce(found.ids, ''),
    int4send(hashtext(left(batches.batch_id, 8))) || int4send(hashtext(left(batches.user_id, 8)))
    || coalesce(int4send(hashtext(left(batches.class_id, 8))), '')
    || coalesce(int4send(hashtext(left(batches.org_id, 8))), '')
    || int4send(hashtext(left(batches.correlation_id::text, 8))) || coalesce(found.prefixes, ''),
    least(batches.registered_at, found.oldest)
from unnest(:batch_ids::text[]) as page (batch_id)
inner join els.batches using (batch_id)
cross join lateral (
    select
        string_agg(original_file_name, E'\n') as names,
        max(at) as newest,
        least(min(at), min(pending_at)) as oldest,
        string_agg(
            coalesce(int4send(hashtext(essay_id)), '') || coalesce(int4send(hashtext(text_storage_id)), '')
            || coalesce(int4send(hashtext(file_upload_id)), '')
            || coalesce(int4send(hashtext(correlation_id::text)), ''),
            ''
        ) as ids,
        string_agg(
            coalesce(int4send(hashtext(left(essay_id, 8))), '') || coalesce(int4send(hashtext(left(text_storage_id, 8))), '')
            || coalesce(int4send(hashtext(left(file_upload_id, 8))), '')
            || coalesce(int4send(hashtext(left(correlation_id::text, 8))), ''),
            ''
        ) as prefixes
    from (
        select
            essay_id, text_storage_id, file_upload_id, correlation_id, original_file_name, taken_at as at, pending_at
        from els.slots
        where slots.batch_id = batches.batch_id
        union all
        select
            null, text_storage_id, file_upload_id, correlation_id, original_file_name, declared_at, pending_at
        from els.excess_content
        where excess_content.batch_id = batches.batch_id
        union all
        select null, null, file_upload_id, correlation_id, original_file_name, stored_at, null
        from els.validation_failures
        where validation_failures.batch_id = batches.batch_id
    ) as uploads
) as found
on conflict (batch_id) do update
set registered_at = excluded.registered_at,
    changed_at = excluded.changed_at,
    names = excluded.names,
    ids = excluded.ids,
    prefixes = excluded.prefixes,
    first_at = excluded.first_at
