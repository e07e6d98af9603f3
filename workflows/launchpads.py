"""FireWorks' launchpad files, and LaunchPads over a client that is already connected."""

from __future__ import annotations

import difflib
import functools
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .journal import DatabaseError

if TYPE_CHECKING:
    from fireworks import LaunchPad

LAUNCHPAD_KEYS: dict[str, Any] = {
    "host": None,
    "port": None,
    "name": None,
    "username": None,
    "password": None,
    "logdir": None,
    "strm_lvl": None,
    "user_indices": [],
    "wf_user_indices": [],
    "authsource": None,
    "uri_mode": False,
    "mongoclient_kwargs": None,
}
"""The keys that FireWorks reads from a launchpad file, with its defaults; it ignores any other."""
TIMEOUT_MS = 3000
_CONSTRUCTION = threading.Lock()


def read_launchpad_file(path: Path) -> dict[str, Any]:
    """The content of a launchpad file, with FireWorks' defaults for what it leaves out.

    Raises
    ------
    DatabaseError
        The file cannot be read, has a key that FireWorks would ignore, or does not name a server.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatabaseError(f"The launchpad file {path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatabaseError(f"The launchpad file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DatabaseError(f"The launchpad file {path} holds no keys; it needs at least `host`.")
    for key in content:
        if key not in LAUNCHPAD_KEYS:
            near = difflib.get_close_matches(str(key), LAUNCHPAD_KEYS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it knows {', '.join(LAUNCHPAD_KEYS)}."
            raise DatabaseError(f"The launchpad file {path} has the key `{key}`, which FireWorks ignores; {hint}")
    if not content.get("host"):
        raise DatabaseError(f"The launchpad file {path} names no `host`.")
    settings = LAUNCHPAD_KEYS | {key: value for key, value in content.items() if value is not None}
    if settings["uri_mode"]:
        settings["name"] = settings["name"] or database_of_uri(settings["host"])
        if not settings["name"]:
            raise DatabaseError(f"The launchpad file {path} names no database: set `name`.")
    return settings


def database_of_uri(uri: str) -> str | None:
    """The database that a MongoDB URI names."""
    found = re.match(r"mongodb(?:\+srv)?://[^/]+/([^?]+)", without_password(uri))
    return found[1] if found else None


def without_password(uri: str) -> str:
    """A MongoDB URI, or a text with one in it, without what must not be shown."""
    return re.sub(r"//.*@", "//", uri).split("?")[0]


def connection_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of MongoClient for what a launchpad file says, by FireWorks' rules."""
    options = {
        "serverSelectionTimeoutMS": TIMEOUT_MS,
        "connectTimeoutMS": TIMEOUT_MS,
        **(settings.get("mongoclient_kwargs") or {}),
    }
    if settings.get("uri_mode"):
        return {"host": settings["host"], **options}
    where = {"host": settings["host"], "port": settings.get("port") or 27017}
    if settings.get("username"):
        where |= {
            "username": settings["username"],
            "password": settings.get("password"),
            "authSource": settings.get("authsource") or settings.get("name") or "fireworks",
        }
    return {**where, **options}


# What a LaunchPad does in several writes, and what must be whole after a kill.
_ATOMIC_CALLS = (
    "add_wf", "bulk_add_wfs", "append_wf", "checkout_fw", "reserve_fw", "complete_launch", "ping_launch", "rerun_fw",
    "mark_fizzled", "detect_lostruns", "detect_unreserved", "cancel_reservation", "pause_fw", "pause_wf", "resume_fw",
    "defuse_fw", "defuse_wf", "reignite_fw", "reignite_wf", "archive_wf", "delete_wf", "delete_fws", "set_priority",
    "update_spec", "change_launch_dir", "restore_backup_data", "recover_offline", "reset", "tuneup",
)  # fmt: skip


def make_launchpad(
    client: Any, settings: dict[str, Any], transaction: Callable[[], AbstractContextManager[None]] | None = None
) -> LaunchPad:
    """A LaunchPad over `client`, whichever client class FireWorks took when it was imported."""
    from unittest.mock import patch

    import fireworks.core.launchpad as module
    from mongomock.gridfs import enable_gridfs_integration

    class ConnectedLaunchPad(module.LaunchPad):
        """FireWorks' LaunchPad; over the embedded database each of its calls is one atomic change."""

    if transaction is not None:
        _enable_gridfs_once(enable_gridfs_integration)
        for name in _ATOMIC_CALLS:
            setattr(ConnectedLaunchPad, name, _atomic(getattr(module.LaunchPad, name), transaction))
    arguments = {key: settings.get(key, default) for key, default in LAUNCHPAD_KEYS.items()}
    with _CONSTRUCTION, patch.object(module, "MongoClient", lambda *_, **__: client):
        return ConnectedLaunchPad(**{key: value for key, value in arguments.items() if value is not None})


@functools.cache
def _enable_gridfs_once(enable: Callable[[], None]) -> None:
    enable()


def _atomic(call: Callable[..., Any], transaction: Callable[[], AbstractContextManager[None]]) -> Callable[..., Any]:
    @functools.wraps(call)
    def whole(*args: Any, **kwargs: Any) -> Any:
        with transaction():
            return call(*args, **kwargs)

    return whole
