"""A mongomock client whose every kind of write is recorded by the stores of `hopflow.workflows.embedded_stores`.

mongomock changes documents in place, leaves an update that fails half-way as it is, and copies every match of a query
to return one. The classes here keep its query language and change just that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import bson
from mongomock.aggregate import process_pipeline
from mongomock.collection import BulkOperationBuilder, BulkWriteResult, Collection
from mongomock.database import Database
from mongomock.filtering import resolve_sort_key
from mongomock.helpers import create_index_list, patch_datetime_awareness_in_document
from mongomock.mongo_client import MongoClient
from typing_extensions import override

from .embedded_stores import UNSTORABLE, EmbeddedServerStore, Recorder, document_key


class _BulkOperations(BulkOperationBuilder):
    """mongomock's bulk writes for pymongo >= 4.11, which hands over a `sort`."""

    @override
    def add_update(self, *arguments: Any, sort: Any = None, **options: Any) -> None:
        self._refuse(sort)
        super().add_update(*arguments, **options)

    @override
    def add_replace(self, *arguments: Any, sort: Any = None, **options: Any) -> None:
        self._refuse(sort)
        super().add_replace(*arguments, **options)

    def _refuse(self, sort: Any) -> None:
        if sort is not None:
            raise NotImplementedError("The embedded database cannot sort inside bulk_write.")


class EmbeddedCollection(Collection):
    """A collection whose writes are recorded."""

    _touched: dict[Any, bytes] | None = None

    @property
    def _recorder(self) -> Recorder:
        return self.database.client._store.recorder

    # ---- reading

    @override
    def _iter_documents(self, filter: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._recorder.reading():
            documents = self._store.matching(filter)
        if self._touched is None:
            return iter(documents)
        return self._note_touched(documents, self._touched)

    @staticmethod
    def _note_touched(documents: list[dict[str, Any]], touched: dict[Any, bytes]) -> Iterator[dict[str, Any]]:
        for document in documents:
            key = document_key(document)
            touched.setdefault(key, bson.encode(document))
            yield document

    @override
    def _get_dataset(self, spec: Any, sort: Any, fields: Any, as_class: Any) -> Iterator[dict[str, Any]]:
        with self._recorder.reading():
            return iter(list(super()._get_dataset(spec, sort, fields, as_class)))

    @override
    def _copy_only_fields(self, doc: Any, fields: Any, container: Any) -> Any:
        return super()._copy_only_fields(doc, fields, container) if fields else bson.decode(bson.encode(doc))

    @override
    def find_one(self, filter: Any = None, projection: Any = None, *args: Any, **kwargs: Any) -> Any:
        condition = {} if filter is None else filter if isinstance(filter, Mapping) else {"_id": filter}
        sort = kwargs.get("sort") or []
        sort = list(sort.items()) if isinstance(sort, Mapping) else create_index_list(sort) if sort else []
        if args or set(kwargs) - {"sort"} or any(field.startswith("$") for field, _ in sort):
            return super().find_one(condition, projection, *args, **kwargs)
        # mongomock copies every match to return one; here one is copied.
        with self._recorder.reading():
            found = self._store.matching(patch_datetime_awareness_in_document(condition))
            for field, direction in reversed(sort):
                found.sort(key=lambda document, field=field: resolve_sort_key(field, document), reverse=direction < 0)
            return self._copy_only_fields(found[0], projection, dict) if found else None

    @override
    def aggregate(self, pipeline: Any, session: Any = None, **options: Any) -> Any:
        pipeline = list(pipeline)
        writes = any("$out" in stage for stage in pipeline)
        with self._recorder.operation() if writes else self._recorder.reading():
            conditions = []
            while pipeline and set(pipeline[0]) == {"$match"}:
                conditions.append(pipeline.pop(0)["$match"])
            if not conditions:
                return super().aggregate(pipeline, session=session, **options)
            documents = self.find({"$and": conditions} if len(conditions) > 1 else conditions[0])
            return process_pipeline(list(documents), self.database, pipeline, session)

    # ---- writing

    @override
    def _insert(self, data: Any, session: Any = None, ordered: bool = True) -> Any:
        with self._recorder.operation():
            try:
                result = super()._insert(data, session=session, ordered=ordered)
                if isinstance(data, Mapping):
                    self._store.keep(document_key(data), None)
            except BaseException:
                if isinstance(data, Mapping) and "_id" in data:
                    self._store.discard_unrecorded(data["_id"])
                raise
            return result

    @override
    def _ensure_uniques(self, new_data: dict[str, Any]) -> None:
        self._store.reindex(document_key(new_data))  # it may have been changed in place
        outer, self._touched = self._touched, None
        try:
            super()._ensure_uniques(new_data)
        finally:
            self._touched = outer

    def _keep_all(self, touched: dict[Any, bytes]) -> None:
        problem = None
        for key, before in touched.items():
            try:
                self._store.keep(key, before)
            except UNSTORABLE as error:
                problem = problem or error
        if problem is not None:
            raise problem

    @override
    def _update(self, spec: Any, document: Any, *args: Any, **kwargs: Any) -> Any:
        bson.encode({"update": document})  # what no document can hold is refused before anything is changed
        with self._recorder.operation():
            outer, self._touched = self._touched, {}
            touched = self._touched
            try:
                return super()._update(spec, document, *args, **kwargs)
            except BaseException:
                if touched:  # all but the document at which it failed are done
                    key, before = touched.popitem()
                    self._store.restore(key, before)
                raise
            finally:
                self._touched = outer
                self._keep_all(touched)

    @override
    def _delete(self, *args: Any, **kwargs: Any) -> Any:
        with self._recorder.operation():
            return super()._delete(*args, **kwargs)

    @override
    def _find_and_modify(self, *args: Any, **kwargs: Any) -> Any:
        with self._recorder.operation():
            return super()._find_and_modify(*args, **kwargs)

    @override
    def bulk_write(
        self, requests: Any, ordered: bool = True, bypass_document_validation: bool = False, session: Any = None
    ) -> BulkWriteResult:
        if session or bypass_document_validation:
            return super().bulk_write(requests, ordered, bypass_document_validation, session)
        with self._recorder.operation():
            bulk = _BulkOperations(self, ordered=ordered)
            for request in requests:
                request._add_to_bulk(bulk)
            return BulkWriteResult(bulk.execute(), True)

    @override
    def create_index(self, key_or_list: Any, cache_for: int = 300, session: Any = None, **kwargs: Any) -> str:
        kwargs.pop("background", None)
        with self._recorder.operation():
            return super().create_index(key_or_list, cache_for, session, **kwargs)

    @override
    def drop_index(self, index_or_name: Any, session: Any = None) -> None:
        with self._recorder.operation():
            super().drop_index(index_or_name, session)

    @override
    def drop_indexes(self, session: Any = None) -> None:
        with self._recorder.operation():
            for name in list(self._store.indexes):
                self._store.drop_index(name)

    @override
    def with_options(self, *args: Any, **options: Any) -> EmbeddedCollection:
        changed = super().with_options(*args, **options)
        if changed is self:
            return self
        return EmbeddedCollection(
            self.database,
            self.name,
            _db_store=self._db_store,
            write_concern=changed.write_concern,
            read_concern=changed.read_concern,
            read_preference=changed.read_preference,
            codec_options=changed.codec_options,
        )


class EmbeddedDatabase(Database):
    """A database of recorded collections."""

    @override
    def get_collection(self, name: str, *args: Any, **options: Any) -> EmbeddedCollection:
        if name not in self._collection_accesses:
            self._ensure_valid_collection_name(name)
            self._collection_accesses[name] = EmbeddedCollection(
                self,
                name=name,
                _db_store=self._store,
                read_preference=self.read_preference,
                codec_options=self.codec_options,
            )
        return super().get_collection(name, *args, **options)

    @override
    def drop_collection(self, name_or_collection: Any, session: Any = None) -> None:
        with self.client._store.recorder.operation():
            super().drop_collection(name_or_collection, session)

    @override
    def create_collection(self, name: str, **kwargs: Any) -> EmbeddedCollection:
        with self.client._store.recorder.operation():
            return super().create_collection(name, **kwargs)

    @override
    def rename_collection(self, name: str, new_name: str, dropTarget: bool = False) -> Any:
        with self.client._store.recorder.operation():
            return super().rename_collection(name, new_name, dropTarget)


class EmbeddedClient(MongoClient):
    """mongomock's client over a durable store; `close` leaves the store open for its owner."""

    _store: EmbeddedServerStore

    def __init__(self, store: EmbeddedServerStore) -> None:
        super().__init__(_store=store)

    @override
    def get_database(self, name: str | None = None, *args: Any, **options: Any) -> EmbeddedDatabase:
        if name is not None and name not in self._database_accesses:
            self._database_accesses[name] = EmbeddedDatabase(
                self,
                name,
                _store=self._store[name],
                read_preference=self.read_preference,
                codec_options=self.codec_options,
            )
        return super().get_database(name, *args, **options)

    @override
    def drop_database(self, name_or_db: Any) -> None:
        with self._store.recorder.operation():
            super().drop_database(name_or_db)
