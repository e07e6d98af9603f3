"""Who holds a job, and whose turn it is: names of processes say on which machine and in which process they live."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .database import Database

_NAME = re.compile(r"^hopflow-(?P<host>.+)-(?P<pid>\d+)-(?P<start>\d+)$")
TURN_SECONDS = 600.0
"""A turn that lasts so long is taken to be that of a dead process on another machine."""


def _start_of(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 where the system does not tell.

    Process numbers are used again, and soon so in a container.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def launcher_name() -> str:
    """Name under which this process checks jobs out."""
    return f"hopflow-{socket.gethostname()}-{os.getpid()}-{_start_of(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether a launcher of that name ran on this machine and is gone.

    A launcher of another machine is never called dead; its silence has to tell.
    """
    found = _NAME.match(name)
    if found is None or found["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it runs, under another user
    return _start_of(int(found["pid"])) != int(found["start"])


@contextlib.contextmanager
def in_turn(database: Database, campaign: str) -> Iterator[None]:
    """Be the only process that adds workflows to a stored campaign while this lasts; wait for one that is at it.

    In the embedded database it is a transaction. On a server a note in the campaign document says whose turn it is;
    the note of a dead process does not count.
    """
    if database.kind == "embedded":
        with database.transaction():
            yield
        return
    name = launcher_name()
    while True:
        found = database.campaigns.find_one({"_id": campaign}, {"turn": 1})
        if found is None:
            break  # there is nothing to add to; whoever asked will say so
        theirs = found.get("turn")
        mine = {"holder": name, "until": time.time() + TURN_SECONDS}
        if theirs is None or theirs["until"] < time.time() or theirs["holder"] == name or is_dead(theirs["holder"]):
            taken = database.campaigns.update_one({"_id": campaign, "turn": theirs}, {"$set": {"turn": mine}})
            if taken.modified_count:
                break
        time.sleep(0.1)
    try:
        yield
    finally:
        database.campaigns.update_one({"_id": campaign, "turn.holder": name}, {"$unset": {"turn": ""}})
