-- Functions of the views, and of cells. Every upgrade replaces them, before the views.

-- Returns bytes as text, or null where they are not UTF-8 or contain control characters, which could change a terminal.
create or replace function els.readable(bytes bytea) returns text
language plpgsql immutable strict parallel safe
as $$
declare
    readable text;
begin
    readable := convert_from(bytes, 'UTF8');
    if readable ~ '[\u0001-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]' then
        return null;
    end if;
    return readable;
exception
    when character_not_in_repertoire or untranslatable_character then
        return null;
end
$$;

-- Returns a text from outside as it may be shown: without control characters and marks of direction, which a terminal
-- obeys, and with an apostrophe before what a spreadsheet takes for a formula.
create or replace function els.shown(given text) returns text
language sql immutable strict parallel safe
return case when given ~ '^[=+@-]' then '''' else '' end
    || regexp_replace(
        given, '[\u0001-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]', U&'\FFFD', 'g'
    );

-- Returns the same for a text of several lines.
create or replace function els.shown_lines(given text) returns text
language sql immutable strict parallel safe
return case when given ~ '^[=+@-]' then '''' else '' end
    || regexp_replace(
        replace(given, E'\r\n', E'\n'),
        '[\u0001-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]', U&'\FFFD', 'g'
    );

-- Returns JSON as it may be shown: of the characters that a terminal obeys, those are replaced that JSON does not escape.
create or replace function els.shown_json(given jsonb) returns jsonb
language sql immutable strict parallel safe
return case
    when given::text ~ '[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]' then regexp_replace(
        given::text, '[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]', U&'\FFFD', 'g'
    )::jsonb
    else given
end;

-- Returns the same JSON, with escapes for the characters that JSON allows and a terminal obeys.
create or replace function els.safe_json(given text) returns text
language sql immutable strict parallel safe
return case
    when given ~ '[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]' then (
        select string_agg(
            case
                when letter ~ '[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]'
                    then '\u' || lpad(to_hex(ascii(letter)), 4, '0')
                else letter
            end, '' order by place
        )
        from regexp_split_to_table(given, '') with ordinality as letters (letter, place)
    )
    else given
end;

-- Returns a text as it is compared in searches: in one form of its letters (A and ring are Å) and in lower case, whatever
-- the collation of the database. Where all characters are below the first mark that combines with a letter, that is the
-- form already, and `normalize` would take ten times longer. Not `strict`, although null
-- for null: then it could not be inlined, and the call takes longer than the work.
create or replace function els.folded(given text) returns text
language sql immutable parallel safe
return lower(
    case
        when octet_length(given) = char_length(given) or given !~ '[^\u0001-\u02ff]' then given
        else normalize(given, nfc)
    end collate "pg_c_utf8"
);

-- Returns a text with the escapes of JSON decoded, so that \u00c5 is Å. What is not JSON, or can not be decoded, is
-- returned as it is.
create or replace function els.decoded(readable text) returns text
language plpgsql immutable strict parallel safe
as $$
begin
    if position('\' in readable) = 0 then
        return readable;
    end if;
    return readable::jsonb::text;
exception
    when data_exception or statement_too_complex or program_limit_exceeded then
        return readable;
end
$$;

-- Says whether a text occurs in a rejected input: in its key or value, decoded or as it is, or in its error. Most inputs
-- do not contain it. Where it is of plain letters, which no normal form of others becomes, these are found out first: the
-- rest takes twice as long.
create or replace function els.mentions(key bytea, value bytea, error text, given text) returns boolean
language plpgsql immutable parallel safe
as $$
declare
    wanted constant text := els.folded(given);
    readable text;
begin
    if wanted ~ '^[a-z0-9 ._-]*$' then
        begin
            readable := concat_ws(E'\n', convert_from(key, 'UTF8'), convert_from(value, 'UTF8'), error);
            if position('\' in readable) = 0 and position(wanted in lower(readable collate "pg_c_utf8")) = 0 then
                return false;
            end if;
        exception
            when character_not_in_repertoire or untranslatable_character then null;
        end;
    end if;
    readable := els.readable(value);
    return position(wanted in els.folded(concat_ws(
        E'\n', els.readable(key), readable, case when position('\' in readable) > 0 then els.decoded(readable) end, error
    ))) > 0;
end
$$;

-- Returns how many events of each topic a row of the outbox states. A row that was changed by hand, and states none, has
-- one event of topic `?`: the views must not fail because of it. Can be inlined.
create or replace function els.topic_events(topics jsonb) returns table (name text, events bigint)
language sql immutable parallel safe
as $$
    select topic.key, case when topic.value ~ '^[0-9]{1,12}$' then topic.value::bigint else 1 end
    from jsonb_each_text(case when jsonb_typeof(topics) = 'object' then topics else '{"?": 1}' end) as topic
$$;

-- Returns the history of an upload with the state that ends now: expired or removed, since `closed_at`. Without such a time
-- it was pending, and that is no row of its own.
create or replace function els.with_state(history jsonb, state text, closed_at timestamptz) returns jsonb
language sql stable parallel safe
return case
    when closed_at is null then history
    else coalesce(history, '[]') || jsonb_build_object('what', state, 'at', closed_at)
end;

-- Returns what became of an upload while it waited, as rows of ops.timeline: that it was pending, and its history. An
-- earlier release has restored content without a history. Can be inlined.
create or replace function els.waits(stored_at timestamptz, history jsonb)
returns table (at timestamptz, step integer, what text, details text)
language sql stable parallel safe
as $$
    select stored_at, 3, 'pending', 'waits for the registration'
    where stored_at is not null
    union all
    select
        (change ->> 'at')::timestamptz, 7, change ->> 'what',
        case change ->> 'what' when 'expired' then 'the registration did not come in time' end
    from jsonb_array_elements(history) as change
$$;

-- Returns, in words behind others, since when content had waited, and that it had expired; '' where it did not wait.
create or replace function els.pending_since(pending_at timestamptz, history jsonb) returns text
language sql stable parallel safe
return coalesce(
    to_char(pending_at at time zone 'UTC', '", had waited since "YYYY-MM-DD"T"HH24:MI:SS"Z"'), ''
) || case when history @> '[{"what": "expired"}]' then ' and had expired' else '' end;

-- Says whether a text is one of these ids, or the beginning of one. Can be inlined; `in` would make an array for each row.
create or replace function els.is_named(
    given text, is_prefix boolean, first text, second text default null, third text default null, fourth text default null
) returns boolean
language sql immutable parallel safe
return case
    when is_prefix then
        coalesce(starts_with(first, given), false) or coalesce(starts_with(second, given), false)
        or coalesce(starts_with(third, given), false) or coalesce(starts_with(fourth, given), false)
    else
        coalesce(given = first, false) or coalesce(given = second, false)
        or coalesce(given = third, false) or coalesce(given = fourth, false)
end;

-- Returns the number of the cell, out of `cells` (a power of two), that a batch belongs to: the first 8 bytes of the MD5 of
-- its id, modulo `cells`. service/domain/cells.py computes the same.
create or replace function els.cell_of(batch_id text, cells integer) returns integer
language sql immutable strict parallel safe
return (('x' || left(md5(batch_id), 16))::bit(64)::bigint & (cells - 1))::integer;

-- Says whether a batch belongs to this database. Of a cell that was split, rows of the other half may still be there. For a
-- few batches: where many rows are compared, write what sql/own.sql does.
create or replace function els.holds(batch_id text) returns boolean
language plpgsql stable strict parallel safe
as $$
begin
    return (select slice.cells = 1 or els.cell_of(holds.batch_id, slice.cells) = slice.cell from els.slice);
end
$$;
