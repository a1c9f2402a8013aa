"""Groups the operator actions by their subject, for the command line and the JSON API.

Each read and each change is a transaction of its own. Every change writes a row into the log of operator actions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.operators.batches import BatchActions
from service.operators.inputs import InputActions
from service.operators.notices import NoticeActions
from service.operators.output_topics import OutputTopicActions
from service.operators.pending import PendingActions
from service.operators.privacy import PrivacyActions
from service.operators.quarantine import QuarantineActions
from service.operators.search import SearchActions
from service.postgres.pool import Database


class Operations:
    """Performs operator actions on one database."""

    def __init__(
        self,
        database: Database,
        limits: IntakeLimits,
        input_limits: InputLimits,
        kafka: Callable[[], Mapping[str, Any]] = dict,
        other_cell: Callable[[str], Database] | None = None,
    ) -> None:
        """`input_limits` are those of a replay; `kafka` returns what `client_options` returns.

        `other_cell` opens the database of the cell that has this batch; None where its URL is not known.
        """
        self.inputs = InputActions(database, kafka, input_limits)
        self.pending = PendingActions(database)
        self.quarantine = QuarantineActions(database, limits, input_limits, other_cell)
        self.batches = BatchActions(database, limits)
        self.notices = NoticeActions(database)
        self.output_topics = OutputTopicActions(database)
        self.search = SearchActions(database)
        self.privacy = PrivacyActions(database)
