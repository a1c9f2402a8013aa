-- Shows input topics that are paused after too many consecutive rejections, or too many rejected bytes. Reads a row for
-- each topic.

create view ops.stopped_topics as
select
    topic,
    in_a_row as refusals,
    stopped_at,
    now() - stopped_at as age,
    most_bytes as bytes
from els.topic_refusals
where stopped_at is not null;

comment on view ops.stopped_topics is
    'Each input topic that is paused; `quarantine resume` or a valid record ends the pause.';
comment on column ops.stopped_topics.topic is 'the topic';
comment on column ops.stopped_topics.refusals is 'consecutive rejections';
comment on column ops.stopped_topics.stopped_at is 'when it was paused';
comment on column ops.stopped_topics.age is 'time since stopped_at';
comment on column ops.stopped_topics.bytes is
    'the bytes that may be rejected within a day, where these paused it; it then resumes by itself once there are fewer';
