-- Shows inputs that cannot be processed (dead letters). Reads the whole table, but a value only where its column is
-- selected.

create view ops.quarantine as
select
    id,
    state,
    topic,
    "partition",
    "offset",
    key,
    value,
    reason,
    els.shown_lines(error) as error,
    first_seen_at,
    deliveries,
    last_seen_at,
    closed_at,
    els.shown_json(headers) as headers,
    octet_length(value) as value_bytes,
    els.shown_lines(els.readable(key)) as key_text,
    els.shown_lines(els.readable(value)) as value_text,
    batch_id,
    els.shown(original_file_name) as original_file_name,
    correlation_id,
    els.shown_lines(els.decoded(els.readable(value))) as value_decoded,
    edited_value,
    els.shown_lines(els.readable(edited_value)) as edited_value_text,
    erased_at,
    release
from els.own_quarantine as quarantine;

comment on view ops.quarantine is
    'Each rejected input with all its bytes, in one row however often it was delivered.';
comment on column ops.quarantine.id is 'its number, for commands';
comment on column ops.quarantine.state is 'open, replayed or discarded';
comment on column ops.quarantine.topic is 'topic that it came from';
comment on column ops.quarantine."partition" is 'partition of its first delivery';
comment on column ops.quarantine."offset" is 'offset of its first delivery';
comment on column ops.quarantine.key is 'its key, as delivered';
comment on column ops.quarantine.value is 'its value, as delivered';
comment on column ops.quarantine.reason is 'which rule it broke, as a code';
comment on column ops.quarantine.error is 'what was wrong with it';
comment on column ops.quarantine.first_seen_at is 'when it was first rejected';
comment on column ops.quarantine.deliveries is 'how often it was delivered';
comment on column ops.quarantine.last_seen_at is 'when it was last delivered';
comment on column ops.quarantine.closed_at is 'when it was replayed or discarded; null while it is open';
comment on column ops.quarantine.headers is 'its headers';
comment on column ops.quarantine.value_bytes is 'length of its value';
comment on column ops.quarantine.key_text is 'its key, where that is text; else null';
comment on column ops.quarantine.value_text is 'its value, where that is text; else null';
comment on column ops.quarantine.batch_id is 'the batch that it names; null where that could not be read, or an earlier release stored it';
comment on column ops.quarantine.original_file_name is 'name of the file that it names; null as batch_id';
comment on column ops.quarantine.correlation_id is 'its correlation id; null as batch_id';
comment on column ops.quarantine.value_decoded is 'its value, where that is text, with the escapes of JSON decoded: search here for names';
comment on column ops.quarantine.edited_value is
    'the value that an operator sent in its place (`quarantine edit`), which closed it; else null';
comment on column ops.quarantine.edited_value_text is 'the same, where it is text; else null';
comment on column ops.quarantine.erased_at is 'when its contents were erased: it cannot be replayed; null unless they were';
comment on column ops.quarantine.release is
    'release of the service that rejected it, at the first delivery or in the last replay; null of releases before 0.2.0';
