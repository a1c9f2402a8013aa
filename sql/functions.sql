-- Functions of the views. Every upgrade replaces them, before the views.

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

-- Returns a text as it is compared in searches: in one form of its letters (A and ring are Å) and in lower case, whatever
-- the collation of the database.
create or replace function els.folded(given text) returns text
language sql immutable strict parallel safe
return lower(
    case when octet_length(given) = char_length(given) then given else normalize(given, nfc) end collate "pg_c_utf8"
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

-- Says whether a text occurs in a rejected input: in its key or value, decoded or as it is, or in its error.
create or replace function els.mentions(key bytea, value bytea, error text, given text) returns boolean
language sql immutable parallel safe
return position(els.folded(given) in els.folded(concat_ws(
    E'\n', els.readable(key), els.readable(value), els.decoded(els.readable(value)), error
))) > 0;

-- Returns how many events of each topic a row of the outbox states. A row that was changed by hand, and states none, has
-- one event of topic `?`: the views must not fail because of it. Can be inlined.
create or replace function els.topic_events(topics jsonb) returns table (name text, events bigint)
language sql immutable parallel safe
as $$
    select topic.key, case when topic.value ~ '^[0-9]{1,12}$' then topic.value::bigint else 1 end
    from jsonb_each_text(case when jsonb_typeof(topics) = 'object' then topics else '{"?": 1}' end) as topic
$$;
