"""Decides which cell a record belongs to: exactly one, by its bytes alone, so that all cells agree."""

from service.domain.cells import cell_of
from service.domain.delivery import Delivery
from service.domain.events import Rejection
from service.domain.rejected_values import read_subject


def owner_of(delivery: Delivery, cells: int) -> int:
    """Return the number of the cell, out of `cells`, that a decoded record belongs to.

    That of its batch. A rejected record belongs to the batch that quarantine names for it, and one without such a batch
    to the cell of its partition.
    """
    rejected = isinstance(delivery.event, Rejection)
    batch_id = read_subject(delivery).batch_id if rejected else delivery.event.batch_id  # type: ignore[union-attr]
    return delivery.partition % cells if batch_id is None else cell_of(batch_id, cells)
