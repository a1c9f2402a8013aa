-- What Debezium needs in the service's database to take the relay's place: run by an administrator, after `migrate`, on
-- a server with wal_level = logical. Its password: `alter role els_debezium password …`.

create role els_debezium login replication;
grant usage on schema els to els_debezium;
grant select on els.outbox to els_debezium;

-- Inserts only: a row that is deleted, published or not, is none of Debezium's business.
create publication els_outbox for table els.outbox with (publish = 'insert');
