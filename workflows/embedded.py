"""The embedded database: one process's documents, safe on the disk after every state change, with no server.

It is FireWorks' own mongomock mode with another way of writing. A folder holds

- ``store.log``, the truth: see `hopflow.workflows.journal`;
- ``lock``, held by the one process that may write; it frees itself when that process dies;
- ``server.json``, a copy in mongomock-persistence's format, written whenever the store is closed, with
  ``FW_config.yaml`` and ``launchpad.yaml`` beside it, so that FireWorks' ``lpad``, started in the folder, works. What
  ``lpad`` changed there while the store was closed is taken over when the store is opened next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bson
from bson import json_util

from .embedded_client import EmbeddedClient
from .embedded_stores import EmbeddedCollectionStore, EmbeddedServerStore, document_key
from .journal import DatabaseError, Journal, atomic_file

_LOG = logging.getLogger(__name__)
_COMPACT_BYTES = 32 << 20
_MARKER_DATABASE = "hopflow_export"


class FolderLock:
    """The right to write in a folder: one process has it, and loses it at its death, not before.

    Raises
    ------
    DatabaseError
        Another process has it; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._descriptor, 4096, 0)
            self._close()
            raise DatabaseError(self._message(holder)) from None
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({**note, "command": " ".join(sys.argv)[:500]}).encode(), 0)
        # A forked child shares the lock: were it to outlive this process, it would keep the lock for ever.
        os.register_at_fork(after_in_child=self._close)

    def _message(self, holder: bytes) -> str:
        try:
            note = json.loads(holder)
            who = f"process {note['pid']} on {note['host']} (since {note['since']}: {note['command']})"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return (
            f"The embedded database in {self.path.parent} is in use by {who}; wait until it ends or stop it, "
            "or use a MongoDB server for several launchers at once."
        )

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def release(self) -> None:
        """Let another process write."""
        self._close()


class EmbeddedStore:
    """The documents of a folder, with a mongomock client to work on them.

    Parameters
    ----------
    folder
        Created if it is not there (unless `read_only`).
    read_only
        Load what is stored now, write nothing, and ask for no lock: possible while another process writes.

    Raises
    ------
    DatabaseError
        Another process writes in the folder, or what it holds is damaged.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self.read_only = read_only
        self._process = os.getpid()
        self._mutex = threading.RLock()
        self._depth = 0
        self._changes: list[dict[str, Any]] = []
        self._latest: dict[Any, int] = {}  # where in `_changes` a document's last state stands
        self._undo: list[Callable[[], None]] = []
        self._start = self._barrier = 0
        self._exported: dict[str, Any] = {}
        self._closed = False
        self._lock: FolderLock | None = None
        if not read_only:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = FolderLock(folder / "lock")
            except OSError as error:
                raise DatabaseError(f"The folder {folder} cannot be written ({error.strerror}).") from error
        try:
            self._load()
        except BaseException:
            if self._lock:
                self._lock.release()
            raise

    def _load(self) -> None:
        self.server = EmbeddedServerStore(self)
        self._journal = Journal(self.folder / "store.log")
        for entry in self._journal.read():
            if entry["o"] == "export":
                self._exported = entry
            else:
                self.server.replay(entry)
        self.client = EmbeddedClient(self.server)
        if not self.read_only:
            self._journal.open()
        self._take_over_edits()

    @property
    def snapshot(self) -> Path:
        """The copy in mongomock-persistence's format; as new as the last `close` or `export`."""
        return self.folder / "server.json"

    @property
    def bytes(self) -> int:
        """Size of the log file."""
        return self._journal.bytes

    # ---- changes (the Recorder of embedded_stores)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """No write happens while this lasts."""
        with self._mutex:
            yield

    @contextlib.contextmanager
    def operation(self) -> Iterator[None]:
        """One write: what it changed is on the disk when this ends, also if it ends with an error.

        Raises
        ------
        DatabaseError
            The store is open for reading only, is closed, or belongs to another process.
        """
        with self._mutex:
            self._check_writable()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                self._commit()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Several writes as one: on the disk there are all of them or none, and an error undoes them in memory too."""
        with self._mutex:
            self._check_writable()
            self._depth += 1
            undo_from, changes = len(self._undo), len(self._changes)
            start, self._start = self._start, changes
            barrier = self._barrier
            try:
                yield
            except BaseException:
                self._roll_back(undo_from, changes)
                self._barrier = barrier
                raise
            finally:
                self._start = start
                self._depth -= 1
                self._commit()

    def _check_writable(self) -> None:
        if self.read_only:
            raise DatabaseError(f"The embedded database in {self.folder} is open for reading only.")
        if self._closed:
            raise DatabaseError(f"The embedded database in {self.folder} is closed.")
        if os.getpid() != self._process:
            raise DatabaseError(
                f"The embedded database in {self.folder} belongs to process {self._process}; "
                "give results back to it instead of writing from a compute process."
            )

    def record(self, entry: dict[str, Any], undo: Callable[[], None], key: Any = None) -> None:
        """Note one change of the running operation."""
        self._undo.append(undo)
        if key is None:
            self._barrier = len(self._changes)
        else:
            # Only a document's last state is written. But nothing from before the transaction that may be rolled back,
            # or from before a change of a whole collection, can be replaced.
            place = (entry["d"], entry["c"], key)
            index = self._latest.get(place, -1)
            if index >= max(self._start, self._barrier):
                self._changes[index] = entry
                return
            self._latest[place] = len(self._changes)
        self._changes.append(entry)

    def _roll_back(self, undo_from: int, changes: int) -> None:
        while len(self._undo) > undo_from:
            self._undo.pop()()
        del self._changes[changes:]
        self._latest = {place: index for place, index in self._latest.items() if index < changes}

    def _commit(self) -> None:
        if self._depth:
            return
        if self._changes:
            try:
                self._journal.append([bson.encode(entry) for entry in self._changes])
            except BaseException:
                self._roll_back(0, 0)
                self._forget_changes()
                raise
        self._forget_changes()
        if self._journal.bytes > 2 * self._journal.bytes_when_compact + _COMPACT_BYTES:
            self.compact()

    def _forget_changes(self) -> None:
        self._changes, self._latest, self._undo = [], {}, []
        self._start = self._barrier = 0

    # ---- files

    def compact(self) -> None:
        """Rewrite the log so that it holds each document once."""

        def entries() -> Iterator[bytes]:
            for collection in self.server.collections():
                for entry in collection.entries():
                    yield bson.encode(entry)
            if self._exported:
                yield bson.encode(self._exported)

        with self._mutex:
            try:
                self._journal.rewrite(entries())
            except OSError as error:  # nothing is lost: the log goes on as it is
                _LOG.warning("%s was not compacted (%s).", self._journal.path, error)

    def export(self) -> None:
        """Write `snapshot` and the two files that let plain ``lpad`` find it."""
        with self._mutex, atomic_file(self.snapshot) as handle:
            marker = EmbeddedCollectionStore("sequence", _MARKER_DATABASE, self)
            marker.put("sequence", {"_id": "sequence", "value": self._journal.sequence})
            databases: dict[str, list[EmbeddedCollectionStore]] = {_MARKER_DATABASE: [marker]}
            for collection in self.server.collections():
                databases.setdefault(collection.database, []).append(collection)
            _write_json(handle, databases)
        self._exported = {"o": "export", "n": self._journal.sequence, **_stamp(self.snapshot)}
        self._journal.append([bson.encode(self._exported)], counts=False)
        for name, text in (
            ("FW_config.yaml", f"MONGOMOCK_SERVERSTORE_FILE: {json.dumps(str(self.snapshot.resolve()))}\n"),
            ("launchpad.yaml", "# lpad -l launchpad.yaml get_wflows, while no hopflow process runs\nhost: localhost\n"
             "port: 27017\nname: hopflow\nstrm_lvl: INFO\n"),
        ):  # fmt: skip
            if not (self.folder / name).exists():
                (self.folder / name).write_text(text, encoding="utf-8")

    def _take_over_edits(self) -> None:
        """Bring in what ``lpad`` changed in the snapshot since it was exported."""
        if not self._exported or not self.snapshot.exists():
            return
        if _stamp(self.snapshot) == {name: self._exported[name] for name in ("bytes", "modified_ns")}:
            return
        try:
            databases = json_util.loads(self.snapshot.read_text(encoding="utf-8"))
            marker = dict(databases.pop(_MARKER_DATABASE)["sequence"]["documents"])["sequence"]["value"]
        except (ValueError, KeyError, TypeError):
            _LOG.warning("%s is no whole copy of the store; nothing is taken from it.", self.snapshot)
            return
        if marker != self._journal.sequence:
            _LOG.warning("%s is older than the store; changes made in it are not taken over.", self.snapshot)
            return
        self._depth += 1
        try:
            for database, collections in databases.items():
                for name, content in collections.items():
                    self._take_over_collection(self.server[database][name], [pair[1] for pair in content["documents"]])
        finally:
            self._depth -= 1
        if self.read_only:
            self._forget_changes()
        else:
            self._commit()

    @staticmethod
    def _take_over_collection(collection: EmbeddedCollectionStore, documents: list[dict[str, Any]]) -> None:
        edited = {document_key(document): document for document in documents}
        for key in [key for key in collection._documents if key not in edited]:
            del collection[key]
        for key, document in edited.items():
            present = collection._documents.get(key)
            if present != document:
                before = None if present is None else bson.encode(present)
                collection.put(key, document)
                collection.keep(key, before)

    def close(self) -> None:
        """Compact the log if that pays, export the snapshot if it is out of date, and let others write."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.read_only and os.getpid() == self._process:
                if self._journal.bytes > 2 * self._journal.bytes_when_compact:
                    self.compact()
                stamp = {name: self._exported.get(name) for name in ("bytes", "modified_ns")}
                exported = self._exported.get("n") == self._journal.sequence and self.snapshot.exists()
                if not exported or _stamp(self.snapshot) != stamp:
                    self.export()
        finally:
            self._journal.close()
            if self._lock:
                self._lock.release()


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _write_json(handle: Any, databases: dict[str, list[EmbeddedCollectionStore]]) -> None:
    def dump(value: Any) -> bytes:
        return json.dumps(value, default=json_util.default).encode()

    handle.write(b"{")
    for i, (database, collections) in enumerate(databases.items()):
        handle.write((b",\n" if i else b"\n") + dump(database) + b": {")
        for j, collection in enumerate(collections):
            name = dump(collection.name)
            handle.write((b"," if j else b"") + b"\n" + name + b': {"name": ' + name + b', "documents": [')
            for k, (key, document) in enumerate(collection._documents.items()):
                # mongomock-persistence makes the first of each pair a key of a dict, which another dict cannot be.
                label = json_util.dumps(key) if isinstance(key, dict) else key
                handle.write((b",\n" if k else b"\n") + b"[" + dump(label) + b", " + dump(document) + b"]")
            handle.write(b"]}")
        handle.write(b"}")
    handle.write(b"\n}\n")
