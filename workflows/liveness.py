"""Who holds a job: the name of a launcher says on which machine and in which process it lives."""

from __future__ import annotations

import os
import re
import socket

_NAME = re.compile(r"^hopflow-(?P<host>.+)-(?P<pid>\d+)$")


def launcher_name() -> str:
    """Name under which this process checks jobs out."""
    return f"hopflow-{socket.gethostname()}-{os.getpid()}"


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
        return False
    return False
