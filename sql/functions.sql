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
