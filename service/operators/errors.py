"""What operators change. Every change leaves a row in the audit, in its own transaction.

The connection comes first, nothing commits: the command (or whoever acts for an operator) opens the transaction.
What waits is changed behind its batch's lock, where a registration can't come between, and after a look made
since: the lock is one statement, the look the next.
"""


class Undone(Exception):
    """It was not done; the message is one line that says why."""


class NotThere(Undone):
    """What it was to be done to is not there."""


class Impossible(Undone):
    """It can't be done as things stand, and nothing was changed."""


class Busy(Undone):
    """Somebody else is at work on it; nothing was changed, and it may be asked for again."""


class Wrong(Undone):
    """It may not be asked for like this."""


class Away(Undone):
    """The database does not do what it should."""
