"""The Essay Lifecycle Service assigns uploaded essays to the slots of their batches. The path of one event:

1. `consumer` reads a poll of records from Kafka; `domain.incoming` decodes each into an event or a rejection.
2. `intake` applies the poll in one transaction. Records whose batch is locked by another transaction are deferred;
   records that cannot be stored are isolated and go to quarantine.
3. `domain.decisions` decides what to do, without a database; `store` executes it in set-based statements.
4. `domain.outgoing` builds the events to publish; they are written to the outbox in the same transaction.
5. `consumer` commits the offsets.
6. `relay` publishes the outbox, in commit order within a batch, and deletes the rows that Kafka acknowledged.
"""

import sys

# Every way to start the service imports this first; an older Python would end in a traceback. No newer syntax here.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"Python 3.11 or newer is needed; {sys.executable} is Python {sys.version.split()[0]}")

__version__ = "0.2.0.dev0"
"""The only place that states the version; docs/releasing.md lists who reads it."""
