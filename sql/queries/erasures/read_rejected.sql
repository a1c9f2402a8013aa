-- Reads a page of rejected inputs above an id that are not erased, with the values of their headers (where these are
-- short) and the first and last bytes of their values, to be compared with tombstones: at most so many rows and bytes,
-- and at least one row.
-- Index: quarantine_pkey. Locks: none.
select id, key, headers, first, last, size, edited_value, reason
from (
    select
        id, key, headers, first, last, size, edited_value, reason,
        sum(octet_length(first)) over (order by id) as weight,
        row_number() over (order by id) as number
    from (
        select
            id, substring(key for :most::integer) as key,
            array(
                select header ->> 1
                from jsonb_array_elements(
                    case when jsonb_typeof(headers) = 'array' and pg_column_size(headers) <= 65536 then headers end
                ) as header
            ) as headers,
            substring(value for :most::integer) as first,
            substring(value from greatest(octet_length(value) - :most::integer, 0) + 1) as last,
            octet_length(value) as size, edited_value, reason
        from els.quarantine
        where id > :after::bigint
            and erased_at is null
        order by id
        limit 200
    ) as page
) as weighed
where weight <= :bytes::bigint
    or number = 1
order by id
