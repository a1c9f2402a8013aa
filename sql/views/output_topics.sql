-- Shows how many partitions each output topic has, and how many of them are used. Reads a row for each output topic.

create view ops.output_topics as
select
    topic,
    partitions,
    found,
    found_at
from els.output_topics;

comment on view ops.output_topics is
    'The partitions of each output topic: those that are added later are used after `topics adopt`.';
comment on column ops.output_topics.topic is 'the output topic';
comment on column ops.output_topics.partitions is 'events are published to so many of its partitions, from the first on';
comment on column ops.output_topics.found is 'so many partitions it had when a relay last looked';
comment on column ops.output_topics.found_at is 'since when a relay has found this number';
