"""The path of one event:

consumer  reads a poll of records from Kafka; events decodes each, or says why it can't
intake    applies the poll in one transaction, sets aside what others hold, isolates what can't be kept
apply     one poll in one transaction, in set-based statements (store), by pure decisions (rules)
outgoing  builds what must be published; it goes to the outbox in that same transaction
consumer  commits the offsets
relay     publishes the outbox, in commit order within a batch, and deletes what is acknowledged
"""

import sys

# Every way to start the service imports this first; an older Python would end in a traceback. No newer syntax here.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"Python 3.11 or newer is needed; {sys.executable} is Python {sys.version.split()[0]}")

__version__ = "0.2.0.dev0"
"""The only place that states the version; docs/releasing.md lists who reads it."""
