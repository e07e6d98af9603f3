"""mongomock's stores, made durable: each change of a document or a collection is recorded and can be undone.

A written document is encoded as BSON once, so that what is stored is what a server would have stored; the record goes
to a `Recorder`. Hash tables over the indexed fields replace mongomock's scan of a whole collection for each query.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import bson
from bson.raw_bson import RawBSONDocument
from mongomock import OperationFailure
from mongomock.filtering import filter_applies, iter_key_candidates
from mongomock.helpers import hashdict
from mongomock.store import CollectionStore, DatabaseStore, ServerStore
from typing_extensions import override

UNSTORABLE = (bson.errors.BSONError, OverflowError, TypeError, ValueError)
"""What BSON raises for a value that no document can hold."""


class Recorder(Protocol):
    """What keeps the changes: see `hopflow.workflows.embedded.EmbeddedStore`."""

    def operation(self) -> AbstractContextManager[None]:
        """One write: alone in the store while it lasts, on the disk when it ends."""

    def reading(self) -> AbstractContextManager[Any]:
        """One read: no write happens while it lasts."""

    def record(self, entry: dict[str, Any], undo: Callable[[], None], key: Any = None) -> None:
        """Note one change; `key` names the document where a later change of the same document replaces this one."""


def document_key(document: Mapping[str, Any]) -> Any:
    """The key under which mongomock keeps a document."""
    identifier = document["_id"]
    return hashdict(identifier) if isinstance(identifier, dict) else identifier


class StoredDocument(dict[str, Any]):
    """A document in the store; mongomock copies it before each update, which BSON does 20 times as fast."""

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return bson.decode(bson.encode(self))


class EmbeddedCollectionStore(CollectionStore):
    """The documents and indexes of one collection, with a hash table for each indexed field."""

    def __init__(self, name: str, database: str, recorder: Recorder) -> None:
        super().__init__(name)
        self.database = database
        self._recorder = recorder
        self._clear()

    def _clear(self) -> None:
        self._documents: OrderedDict[Any, dict[str, Any]] = OrderedDict()
        self.indexes: dict[str, dict[str, Any]] = {}
        self._is_force_created = False
        self._fresh: set[Any] = set()  # inserted, but not yet found sound and recorded
        self._fields: tuple[str, ...] = ()
        self._lookup: dict[str, dict[Any, dict[Any, None]]] = {}
        self._entries: dict[Any, list[tuple[str, Any]]] = {}
        self._position: dict[Any, int] = {}
        self._next_position = 0

    # ---- single documents

    @override
    def __setitem__(self, key: Any, document: dict[str, Any]) -> None:
        if key not in self._documents:
            self._fresh.add(key)
        self.put(key, document)

    @override
    def __delitem__(self, key: Any) -> None:
        if key in self._fresh:  # an insert that broke a unique index
            self.discard(key)
            return
        document = self._documents[key]
        self.discard(key)
        entry = {"o": "delete", "d": self.database, "c": self.name, "i": document["_id"]}
        self._recorder.record(entry, lambda: self.put(key, document), key)

    def put(self, key: Any, document: dict[str, Any]) -> None:
        """Set a document without recording it."""
        self._documents[key] = StoredDocument(document)
        if key not in self._position:
            self._position[key] = self._next_position
            self._next_position += 1
        self.reindex(key)

    def discard(self, key: Any) -> None:
        """Remove a document without recording it."""
        self._fresh.discard(key)
        if self._documents.pop(key, None) is not None:
            self._forget(key)
            del self._position[key]

    def discard_unrecorded(self, identifier: Any) -> None:
        """Remove a document whose insert did not come to its end."""
        key = document_key({"_id": identifier})
        if key in self._fresh:
            self.discard(key)

    def keep(self, key: Any, before: bytes | None) -> None:
        """Record what a write left under `key`.

        Parameters
        ----------
        key
            The document's key.
        before
            The document as BSON before the write; None if there was none.

        Raises
        ------
        bson.errors.InvalidDocument
            The new content is nothing that a document can hold; the document is as it was before.
        """
        try:
            after = bson.encode(self._documents[key])
        except UNSTORABLE:
            self.restore(key, before)
            raise
        self._fresh.discard(key)
        if after == before:
            return
        self.put(key, bson.decode(after))
        entry = {"o": "put", "d": self.database, "c": self.name, "v": RawBSONDocument(after)}
        self._recorder.record(entry, lambda: self.restore(key, before), key)

    def restore(self, key: Any, before: bytes | None) -> None:
        """Undo a write of one document."""
        if before is None:
            self.discard(key)
        else:
            self.put(key, bson.decode(before))

    # ---- the collection itself

    def _record(self, kind: str, undo: Callable[[], None], **what: Any) -> None:
        self._recorder.record({"o": kind, "d": self.database, "c": self.name, **what}, undo)

    def _undo_of_indexes(self) -> Callable[[], None]:
        saved, created = self.indexes.copy(), self._is_force_created

        def undo() -> None:
            self.indexes, self._is_force_created = saved, created
            self._set_fields()

        return undo

    @override
    def create(self) -> None:
        self._record("create", self._undo_of_indexes())
        super().create()

    @override
    def drop(self) -> None:
        if self.is_created:
            saved = vars(self).copy()  # `_clear` makes new containers, so these stay as they are
            self._record("drop", lambda: vars(self).update(saved))
            self._clear()

    @override
    def create_index(self, index_name: str, index_dict: dict[str, Any]) -> None:
        if index_dict.get("expireAfterSeconds") is not None:
            raise OperationFailure("The embedded database has no indexes that delete documents after a time.")
        if self.indexes.get(index_name) != index_dict:
            self._record("index", self._undo_of_indexes(), n=index_name, v=index_dict)
            self.indexes[index_name] = index_dict
            self._set_fields()

    @override
    def drop_index(self, index_name: str) -> None:
        if index_name not in self.indexes:
            raise KeyError(index_name)
        self._record("unindex", self._undo_of_indexes(), n=index_name)
        del self.indexes[index_name]
        self._set_fields()

    def replay(self, entry: dict[str, Any]) -> None:
        """Apply a recorded change."""
        kind = entry["o"]
        if kind == "put":
            self.put(document_key(entry["v"]), entry["v"])
        elif kind == "delete":
            self.discard(document_key({"_id": entry["i"]}))
        elif kind == "create":
            self._is_force_created = True
        elif kind == "drop":
            self._clear()
        elif kind == "index":
            self.indexes[entry["n"]] = {**entry["v"], "key": [tuple(pair) for pair in entry["v"]["key"]]}
            self._set_fields()
        elif kind == "unindex":
            self.indexes.pop(entry["n"], None)
            self._set_fields()
        else:
            raise ValueError(f"unknown record {kind!r}")

    def entries(self) -> Iterator[dict[str, Any]]:
        """The records that make this collection out of nothing."""
        place = {"d": self.database, "c": self.name}
        if self._is_force_created:
            yield {"o": "create", **place}
        for name, index in self.indexes.items():
            yield {"o": "index", **place, "n": name, "v": index}
        for document in self._documents.values():
            yield {"o": "put", **place, "v": document}

    # ---- lookup

    def _set_fields(self) -> None:
        fields = dict.fromkeys(field for index in self.indexes.values() for field, _ in index["key"] if field != "_id")
        self._fields = tuple(fields)
        self._lookup = {field: {} for field in fields}
        self._entries = {}
        for key in self._documents:
            self.reindex(key)

    def _forget(self, key: Any) -> None:
        for field, value in self._entries.pop(key, ()):
            bucket = self._lookup[field][value]
            bucket.pop(key, None)
            if not bucket:
                del self._lookup[field][value]

    def reindex(self, key: Any) -> None:
        """Bring the hash tables up to a document's present content."""
        if not self._fields:
            return
        self._forget(key)
        document = self._documents[key]
        entries: dict[tuple[str, Any], None] = {}
        for field in self._fields:
            for found in iter_key_candidates(field, document):
                for value in found if isinstance(found, list) else (found,):
                    if isinstance(value, (str, int)):
                        entries[field, value] = None
        self._entries[key] = list(entries)
        for field, value in entries:
            self._lookup[field].setdefault(value, {})[key] = None

    def _keys_for(self, field: str, wanted: Any) -> Iterable[Any] | None:
        """Keys of all documents that can match one condition; None if only a scan can tell."""
        if isinstance(wanted, dict):
            if "$eq" in wanted:
                values = [wanted["$eq"]]
            elif isinstance(wanted.get("$in"), (list, tuple)):
                values = list(wanted["$in"])
            else:
                return None
        else:
            values = [wanted]
        if field == "_id" and all(isinstance(value, (str, int, bson.ObjectId)) for value in values):
            return {value: None for value in values if value in self._documents}
        if field not in self._lookup or not all(isinstance(value, (str, int)) for value in values):
            return None
        table = self._lookup[field]
        if len(values) == 1:
            return table.get(values[0], {})
        return {key: None for value in values for key in table.get(value, ())}

    def _candidates(self, condition: dict[str, Any]) -> Any:
        best: Any = None
        for field, wanted in condition.items():
            if field == "$and" and isinstance(wanted, list):
                found = [self._candidates(part) for part in wanted if isinstance(part, dict)]
            else:
                found = [self._keys_for(field, wanted)]
            for keys in found:
                if keys is not None and (best is None or len(keys) < len(best)):
                    best = keys
        return best

    def matching(self, condition: Any) -> list[dict[str, Any]]:
        """The documents that a filter matches, themselves and no copies, in the order of their insertion."""
        keys = self._candidates(condition) if isinstance(condition, dict) else None
        if keys is None:
            documents = list(self._documents.values())
        else:
            documents = [self._documents[key] for key in sorted(keys, key=self._position.__getitem__)]
        if not documents:
            filter_applies(condition, {})  # a wrong filter is an error even where nothing can match
        return [document for document in documents if filter_applies(condition, document)]


class EmbeddedDatabaseStore(DatabaseStore):
    """The collections of one database."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        self.name = name
        self._recorder = recorder
        self._collections: dict[str, EmbeddedCollectionStore] = {}

    @override
    def __getitem__(self, name: str) -> EmbeddedCollectionStore:
        if name not in self._collections:
            self._collections[name] = EmbeddedCollectionStore(name, self.name, self._recorder)
        return self._collections[name]

    @override
    def rename(self, name: str, new_name: str) -> None:
        saved = self._collections.copy()

        def undo() -> None:
            self._collections = saved
            saved[name].name = name

        self._recorder.record({"o": "rename", "d": self.name, "c": name, "n": new_name}, undo)
        super().rename(name, new_name)


class EmbeddedServerStore(ServerStore):
    """All databases of the store."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._databases: dict[str, EmbeddedDatabaseStore] = {}

    @override
    def __getitem__(self, name: str) -> EmbeddedDatabaseStore:
        if name not in self._databases:
            self._databases[name] = EmbeddedDatabaseStore(name, self.recorder)
        return self._databases[name]

    def replay(self, entry: dict[str, Any]) -> None:
        """Apply a recorded change."""
        database = self[entry["d"]]
        if entry["o"] == "rename":
            DatabaseStore.rename(database, entry["c"], entry["n"])
        else:
            database[entry["c"]].replay(entry)

    def collections(self) -> Iterator[EmbeddedCollectionStore]:
        """Every collection that exists."""
        for database in self._databases.values():
            for collection in database._collections.values():
                if collection.is_created:
                    yield collection
