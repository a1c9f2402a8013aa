"""Locks between test processes of one user, whatever run they belong to. A process that ends gives its locks back."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from deploy.local.postgres import OUTSIDE, own_folder


def taken(name: str, *, waits: bool = True) -> IO[str] | None:
    """The lock, until it is closed; None where another process has it and this one does not wait."""
    lock = (own_folder(OUTSIDE / f"els-test-locks-{os.geteuid()}", None) / name).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Whoever comes second waits until the first is done."""
    lock = taken(name)
    assert lock is not None
    with lock:
        yield
