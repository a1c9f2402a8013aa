"""Runs a streaming standby of a PostgreSQL server."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.postgres import Postgres
from deploy.servers.ports import reserved_port


@contextmanager
def standby_of(primary: Postgres, slot: str = "") -> Iterator[Postgres]:
    """Gives a standby of the data of `primary`, which is stopped for as long as it is copied.

    It has the name `reports`, uses the slot if one is given, and reports what it still reads.
    """
    place, home = primary.place.with_name("standby"), primary.place.with_name("home")
    primary.stop()
    place.mkdir()
    home.mkdir()
    subprocess.run(["cp", "-a", primary.data, place / "data"], check=True)
    primary.start()
    become_standby(primary, place / "data")
    with (place / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = '{primary.url()}?application_name=reports'\n")
        settings.write(f"primary_slot_name = '{slot}'\n")
        settings.write("hot_standby_feedback = on\nwal_receiver_status_interval = 1s\n")
    standby = _Standby(primary, place, home)
    if primary.account:
        os.chown(place, primary.account.uid, primary.account.gid)
    standby.start()
    try:
        yield standby
    finally:
        standby.stop()
        shutil.rmtree(place)
        shutil.rmtree(home)


def become_standby(server: Postgres, data: Path | None = None) -> None:
    """Make the server of this data, by default its own, start as a standby the next time."""
    marker = (data or server.data) / "standby.signal"
    marker.touch()
    if account := server.account:
        os.chown(marker, account.uid, account.gid)


class _Standby(Postgres):
    """A server that runs the programs of its primary: they lie where its account can run them."""

    def __init__(self, primary: Postgres, place: Path, home: Path) -> None:
        super().__init__(place, home, reserved_port(), primary._password, account=primary.account)
        self.programs = primary.programs  # type: ignore[method-assign]
