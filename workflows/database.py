"""One database for a campaign, on a MongoDB server or embedded: FireWorks' launchpad, jobflow's job store, the ledger.

`open_database` opens either kind; what it returns is used alike. On a server each pymongo or FireWorks call stands for
itself; the embedded database makes each call durable and atomic, and `Database.transaction` joins several into one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .journal import DatabaseError
from .launchpads import (
    TIMEOUT_MS,
    connection_arguments,
    database_of_uri,
    make_launchpad,
    read_launchpad_file,
    without_password,
)

if TYPE_CHECKING:
    from fireworks import LaunchPad
    from jobflow import JobStore

    from .embedded import EmbeddedStore
    from .settings import Settings

__all__ = ["Database", "DatabaseError", "create_indexes", "jobflow_settings_yaml", "open_database", "use_job_store"]

DATABASE_NAME = "hopflow"
LEDGER_STAGES = ("intake", "bvse", "gnn", "pes", "neb", "dft")
USER_INDICES = ("spec.campaign", "spec.stage", "spec.material_ids", "spec.job_uuid")
WORKFLOW_USER_INDICES = ("metadata.campaign", "metadata.stage", "metadata.material_ids")


@dataclass
class Database:
    """An open database.

    Attributes
    ----------
    kind
        ``"mongodb"`` or ``"embedded"``.
    description
        Where it is, without passwords.
    launchpad
        A FireWorks LaunchPad over this database.
    job_store
        A jobflow JobStore over its collections ``outputs`` and ``outputs_data``.
    client
        The pymongo client, or mongomock's.
    name
        Name of the database on the server or in the store.
    """

    kind: Literal["mongodb", "embedded"]
    description: str
    launchpad: LaunchPad
    job_store: JobStore
    client: Any
    name: str
    read_only: bool = False
    store: EmbeddedStore | None = None
    store_settings: dict[str, Any] = field(default_factory=dict, repr=False)

    def collection(self, name: str) -> Any:
        """A collection of the database."""
        return self.client[self.name][name]

    @property
    def campaigns(self) -> Any:
        """Ledger: one document a campaign."""
        return self.collection("campaigns")

    @property
    def candidates(self) -> Any:
        """Ledger: one document a campaign and material."""
        return self.collection("candidates")

    @property
    def structures(self) -> Any:
        """Ledger: one document a distinct structure, by its hash."""
        return self.collection("structures")

    def transaction(self) -> AbstractContextManager[None]:
        """Join writes: the embedded database keeps all of them or none. On a server each write stands for itself."""
        return contextlib.nullcontext() if self.store is None else self.store.transaction()

    def ping(self) -> None:
        """Ask for a sign of life.

        Raises
        ------
        DatabaseError
            The server does not answer, or does not let this user in.
        """
        if self.store is None:
            _ping(self.client, self.description)

    def close(self) -> None:
        """Give the connection, or the embedded database's lock, back."""
        if self.store is None:
            self.client.close()
        else:
            self.store.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(
    target: Settings | str | Path | None = None,
    *,
    home: Path | None = None,
    launchpad: Path | None = None,
    read_only: bool = False,
) -> Database:
    """Open the database that `target` names.

    Parameters
    ----------
    target
        Settings (None: those of `home`, `launchpad` and the environment), a ``mongodb://`` URI, a launchpad file
        (``.yaml``), or the folder of an embedded database, which is created if it is not there.
    home, launchpad
        The command-line options of these names; used where `target` is None.
    read_only
        For an embedded database: open what is stored now, also while another process works on it, and refuse writes.

    Raises
    ------
    DatabaseError
        The server cannot be reached, the file is wrong, or the embedded database is in use.
    """
    if target is None:
        from .settings import load_settings

        target = load_settings(home=home, launchpad=launchpad)
    place = target if isinstance(target, (str, Path)) else target.target
    if re.match(r"mongodb(\+srv)?://", str(place)):
        name = database_of_uri(str(place)) or DATABASE_NAME
        return _open_server({"host": str(place), "name": name, "uri_mode": True, "strm_lvl": "WARNING"}, read_only)
    path = Path(place)
    if path.suffix in (".yaml", ".yml"):
        return _open_server(read_launchpad_file(path), read_only)
    if path.is_file():
        raise DatabaseError(f"{path} is neither a folder nor a launchpad file that ends in .yaml.")
    return _open_embedded(path, read_only)


def _open_server(settings: dict[str, Any], read_only: bool) -> Database:
    import pymongo
    from jobflow import JobStore
    from maggma.stores import MongoStore
    from pymongo.errors import ConfigurationError, InvalidURI

    name = settings.get("name") or "fireworks"
    server = settings["host"] if settings.get("uri_mode") else f"{settings['host']}:{settings.get('port') or 27017}"
    description = f"MongoDB database {name} at {without_password(server)}"
    connection = connection_arguments(settings)
    try:
        client: Any = pymongo.MongoClient(**connection)
    except (ConfigurationError, InvalidURI, TypeError, ValueError) as error:
        # pymongo's text can quote a part of the password.
        hint = (
            "special characters of user and password must be written as %XX" if settings.get("uri_mode") else str(error)
        )
        raise DatabaseError(
            f"The {description} cannot be opened: its address or options are wrong ({hint})."
        ) from error
    _ping(client, description)

    kwargs = {key: value for key, value in connection.items() if key not in ("host", "port", "username", "password")}
    auth_source = kwargs.pop("authSource", None)
    if settings.get("uri_mode"):
        where: dict[str, Any] = {"uri": settings["host"], "database": name}
    else:
        where = {"host": connection["host"], "port": connection["port"], "database": name}
        if "username" in connection:
            where |= {"username": connection["username"], "password": connection["password"] or ""}
            where["auth_source"] = auth_source
    where["mongoclient_kwargs"] = kwargs

    def store(collection: str) -> MongoStore:
        made = MongoStore(collection_name=collection, **where)
        made._coll = client[name][collection]  # one connection for all; a new `connect` would make another
        return made

    launchpad = make_launchpad(client, {**settings, "name": name, "user_indices": _indices(settings)})
    job_store = JobStore(store("outputs"), additional_stores={"data": store("outputs_data")})
    return Database("mongodb", description, launchpad, job_store, client, name, read_only, store_settings=where)


def _indices(settings: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys([*(settings.get("user_indices") or []), *USER_INDICES]))


def _ping(client: Any, description: str) -> None:
    from pymongo.errors import OperationFailure, PyMongoError

    try:
        client.admin.command("ping")
    except OperationFailure as error:
        raise DatabaseError(f"The {description} refuses this user ({error.details or error}).") from error
    except PyMongoError as error:
        raise DatabaseError(
            f"The {description} does not answer within {TIMEOUT_MS // 1000} s; "
            "start the server, correct the address, or leave it out to use the embedded database."
        ) from error


def _open_embedded(folder: Path, read_only: bool) -> Database:
    from jobflow import JobStore

    from .embedded import EmbeddedStore

    store = EmbeddedStore(folder, read_only=read_only)
    database = store.client[DATABASE_NAME]
    settings = {"host": "localhost", "name": DATABASE_NAME, "user_indices": list(USER_INDICES), "strm_lvl": "WARNING"}
    launchpad = make_launchpad(store.client, settings, store.transaction)
    attached = _attached_store_class()
    job_store = JobStore(
        attached.from_collection(database["outputs"]),
        additional_stores={"data": attached.from_collection(database["outputs_data"])},
    )
    opened = Database(
        "embedded",
        f"embedded database in {folder}",
        launchpad,
        job_store,
        store.client,
        DATABASE_NAME,
        read_only,
        store,
    )
    if not read_only and launchpad.workflows.find_one({"locked": True}, {"_id": 1}):
        # This process alone may write, so such a lock is left over from one that was killed.
        launchpad.workflows.update_many({"locked": True}, {"$unset": {"locked": True}})
    return opened


@functools.cache
def _attached_store_class() -> Any:
    from maggma.stores import MongoStore

    class AttachedStore(MongoStore):
        """A MongoStore over a collection that is there for as long as the database is open."""

        def connect(self, force_reset: bool = False) -> None:
            """Do nothing: the collection was given."""

        def close(self) -> None:
            """Do nothing: the database closes itself."""

    return AttachedStore


def create_indexes(database: Database) -> None:
    """Create every index, and FireWorks' id counters where there are none; delete and change nothing.

    May be called as often as one likes, also by several processes at once, on an empty database or a full one.

    Raises
    ------
    DatabaseError
        The stored documents contradict a unique index.
    """
    from pymongo import ASCENDING, DESCENDING
    from pymongo.errors import DuplicateKeyError, OperationFailure

    launchpad = database.launchpad
    try:
        with database.transaction():
            launchpad.tuneup()
            for name in WORKFLOW_USER_INDICES:
                launchpad.workflows.create_index(name)
            _ensure_counters(launchpad)
            outputs = database.collection("outputs")
            outputs.create_index([("uuid", ASCENDING), ("index", DESCENDING)])
            outputs.create_index([("metadata.campaign", ASCENDING), ("completed_at", ASCENDING)])
            outputs.create_index("metadata.material_ids")
            outputs.create_index("output.results.content_key")
            database.collection("outputs_data").create_index("blob_uuid")
            database.collection("outputs_data").create_index([("job_uuid", ASCENDING), ("job_index", ASCENDING)])
            database.campaigns.create_index("name", unique=True)
            unique = [("campaign", ASCENDING), ("material_id", ASCENDING)]
            database.candidates.create_index(unique, unique=True)
            database.candidates.create_index([("campaign", ASCENDING), ("requested_ids", ASCENDING)])
            for stage in LEDGER_STAGES:
                database.candidates.create_index([("campaign", ASCENDING), (f"stages.{stage}.status", ASCENDING)])
    except (DuplicateKeyError, OperationFailure) as error:
        raise DatabaseError(f"An index cannot be created in the {database.description}: {error}") from error


def _ensure_counters(launchpad: LaunchPad) -> None:
    """Let FireWorks number jobs and launches from 1, or from after the highest where its counters were lost."""
    if launchpad.fw_id_assigner.find_one({}) is not None:
        return

    def following(collection: Any, key: str) -> int:
        highest = collection.find_one({}, {key: 1}, sort=[(key, -1)])
        return 1 if highest is None else highest[key] + 1

    counters = {
        "next_fw_id": following(launchpad.fireworks, "fw_id"),
        "next_launch_id": following(launchpad.launches, "launch_id"),
    }
    launchpad.fw_id_assigner.update_one({"_id": -1}, {"$setOnInsert": counters}, upsert=True)


@contextlib.contextmanager
def use_job_store(database: Database) -> Iterator[JobStore]:
    """Let the jobs that run in this process keep their outputs in `database`.

    Workflows are made with ``flow_to_workflow(flow, store=None)``: a store given there would be written into each job
    and opened anew by each.
    """
    import jobflow

    before = jobflow.SETTINGS.JOB_STORE
    jobflow.SETTINGS.JOB_STORE = database.job_store
    try:
        yield database.job_store
    finally:
        jobflow.SETTINGS.JOB_STORE = before


def jobflow_settings_yaml(database: Database) -> str:
    """The settings file that gives FireWorks workers on other machines the same job store.

    Write it where the workers read it, name it in their ``JOBFLOW_CONFIG_FILE``, and let only its owner read it: it
    holds the server's password. Workers then run ``rlaunch -l launchpad.yaml rapidfire``.

    Raises
    ------
    DatabaseError
        The database is embedded, so that no other process can use it.
    """
    import yaml

    if database.kind != "mongodb":
        raise DatabaseError("Only a MongoDB server can be shared with other machines; name one with --launchpad.")

    def store(collection: str) -> dict[str, Any]:
        return {"type": "MongoStore", "collection_name": collection, **database.store_settings}

    content = {"JOB_STORE": {"docs_store": store("outputs"), "additional_stores": {"data": store("outputs_data")}}}
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)  # the detour leaves no YAML aliases
