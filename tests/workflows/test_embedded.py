"""The embedded database: every kind of write is kept, whole, through kill -9, torn files and other processes."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import bson
import mongomock
import pymongo
import pytest
from bson import Int64, ObjectId
from hopflow.workflows import embedded
from hopflow.workflows.embedded import EmbeddedStore
from hopflow.workflows.journal import HEADER, DatabaseError, encode_frame
from mongomock.collection import Collection as MockCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure


def content(client: Any) -> dict[str, Any]:
    """Everything in a client: documents as BSON by collection, and the indexes."""
    found = {}
    for database in sorted(client.list_database_names()):
        for name in sorted(client[database].list_collection_names()):
            collection = client[database][name]
            indexes = {
                key: (value["key"], value.get("unique")) for key, value in collection.index_information().items()
            }
            found[database, name] = (sorted(bson.encode(document) for document in collection.find()), indexes)
    return found


def stored(folder: Path) -> dict[str, Any]:
    """What another process would find in a folder now."""
    return content(EmbeddedStore(folder, read_only=True).client)


def run_child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# ---- kinds of writes


class Driver:
    """The same random writes, in either database; outcomes are compared by the caller."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def document(self) -> dict[str, Any]:
        r = self.random
        return {
            "_id": r.choice([r.randrange(60), f"id{r.randrange(60)}"]),
            "campaign": r.choice("ab"),
            "material": f"m{r.randrange(40)}",
            "n": r.randrange(6),
            "tags": [r.choice("xyz") for _ in range(r.randrange(3))],
            "stages": {r.choice(["bvse", "gnn"]): {"status": r.choice(["passed", "failed"]), "value": r.random()}},
            "at": dt.datetime(2026, 1, 1) + dt.timedelta(milliseconds=r.randrange(10**9)),
        }

    def condition(self) -> dict[str, Any]:
        r = self.random
        return r.choice(
            [
                {"campaign": r.choice("ab")},
                {"campaign": r.choice("ab"), "material": f"m{r.randrange(40)}"},
                {"_id": r.randrange(60)},
                {"n": {"$in": [1, r.randrange(6)]}, "campaign": {"$ne": "a"}},
                {"n": {"$gte": r.randrange(6)}},
                {"tags": r.choice("xyz")},
                {"$and": [{"stages.bvse.status": "passed"}, {"n": {"$lt": 4}}]},
                {"$or": [{"n": 0}, {"material": "m3"}]},
                {"material": {"$exists": False}},
                {"campaign": "nowhere"},
                {"material": None},
                {"stages.bvse.status": {"$regex": "^pa"}},
            ]
        )

    def update(self) -> dict[str, Any]:
        r = self.random
        return r.choice(
            [
                {"$set": {"stages.gnn.status": r.choice(["passed", "failed", "running"])}},
                {"$set": {"material": f"m{r.randrange(40)}"}},
                {"$inc": {"n": r.randrange(3)}},
                {"$unset": {"tags": ""}},
                {"$push": {"log": {"attempt": r.randrange(9)}}},
                {"$max": {"n": 4}},
                {"$addToSet": {"seen": r.randrange(3)}},
            ]
        )

    def step(self) -> Any:
        """One random write as (what it is, a function of a collection)."""
        r, condition, update, document = self.random, self.condition(), self.update(), self.document()
        replacement = {key: value for key, value in document.items() if key != "_id"}
        more = [self.document() for _ in range(3)]
        ordered, upsert = r.random() < 0.5, r.random() < 0.3
        sort = [("material", 1), ("_id", 1)] if r.random() < 0.5 else [("n", -1), ("at", 1)]
        field = r.choice(["n", "tags", "stages.bvse.status", "campaign"])
        steps = {
            "insert_one": lambda c: c.insert_one(dict(document)),
            "insert_many": lambda c: c.insert_many([dict(d) for d in more], ordered=ordered),
            "update_one": lambda c: c.update_one(condition, update).raw_result["n"],
            "update_many": lambda c: c.update_many(condition, update).raw_result["n"],
            "upsert": lambda c: c.update_one({"_id": document["_id"]}, {"$set": replacement}, upsert=True),
            "set_on_insert": lambda c: c.update_one(
                {"_id": document["_id"]}, {"$setOnInsert": replacement}, upsert=True
            ),
            "replace_one": lambda c: c.replace_one({"_id": document["_id"]}, replacement, upsert=upsert),
            "find_one_and_update": lambda c: c.find_one_and_update(condition, update, sort=sort),
            "find_one_and_replace": lambda c: c.find_one_and_replace(condition, replacement, sort=sort),
            "find_one_and_delete": lambda c: c.find_one_and_delete(condition, sort=sort),
            "delete_one": lambda c: c.delete_one(condition).deleted_count,
            "delete_many": lambda c: c.delete_many({**condition, "n": r.choice([3])}).deleted_count,
            "bulk_write": lambda c: bulk(c, document, condition, update, replacement, ordered),
            "create_index": lambda c: c.create_index(field),
            "unique_index": lambda c: c.create_index([("campaign", 1), ("material", -1)], unique=True),
            "drop_index": lambda c: c.drop_index("campaign_1_material_-1"),
            "drop_indexes": lambda c: c.drop_indexes(),
            "drop": lambda c: c.drop() if document["n"] == 0 else None,
            "out": lambda c: c.aggregate([{"$match": condition}, {"$out": "copies"}]),
            "rename": lambda c: c.database["copies"].rename("renamed", dropTarget=True),
            "create_collection": lambda c: c.database.create_collection(f"empty{document['n']}"),
        }
        name = r.choice([*steps, "insert_one", "insert_many", "upsert", "bulk_write"])
        return name, steps[name]


def bulk(
    c: Any, document: dict[str, Any], condition: dict[str, Any], update: Any, replacement: Any, ordered: bool
) -> Any:
    """A bulk write as maggma makes it; mongomock itself cannot take one from pymongo >= 4.11."""
    requests = [
        pymongo.ReplaceOne({"_id": document["_id"]}, replacement, upsert=True),
        pymongo.UpdateMany(condition, update),
        pymongo.InsertOne(dict(document)),
        pymongo.UpdateOne({"_id": "new"}, {"$inc": {"n": 1}}, upsert=True),
        pymongo.DeleteOne(condition),
    ]
    if type(c) is not MockCollection:
        return c.bulk_write(requests, ordered=ordered)
    steps = [
        lambda: c.replace_one({"_id": document["_id"]}, replacement, upsert=True),
        lambda: c.update_many(condition, update),
        lambda: c.insert_one(dict(document)),
        lambda: c.update_one({"_id": "new"}, {"$inc": {"n": 1}}, upsert=True),
        lambda: c.delete_one(condition),
    ]
    failed = False
    for step in steps:
        try:
            step()
        except DuplicateKeyError:
            failed = True
            if ordered:
                break
    if failed:
        raise BulkWriteError({})
    return None


def outcome(step: Any, collection: Any) -> Any:
    try:
        result = step(collection)
    except (DuplicateKeyError, BulkWriteError, OperationFailure, pymongo.errors.CollectionInvalid) as error:
        return type(error).__name__
    return result if isinstance(result, (int, dict, str)) or result is None else "done"


@pytest.mark.parametrize("seed", range(8))
def test_random_writes_agree_with_mongomock_and_survive_reopening(tmp_path: Path, seed: int) -> None:
    driver = Driver(seed)
    store, oracle = EmbeddedStore(tmp_path), mongomock.MongoClient()
    mine, theirs = store.client["hopflow"]["rows"], oracle["hopflow"]["rows"]
    for number in range(150):
        name, step = driver.step()
        assert outcome(step, mine) == outcome(step, theirs), (number, name)
        condition = driver.condition()
        assert list(mine.find(condition)) == list(theirs.find(condition)), (number, name, condition)
        order = [("n", -1), ("_id", 1)] if all(isinstance(d["_id"], int) for d in theirs.find()) else [("n", 1)]
        assert mine.find_one(condition, sort=order) == theirs.find_one(condition, sort=order)
        assert mine.count_documents(condition) == theirs.count_documents(condition)
        if number % 10 == 0:
            assert content(store.client) == content(oracle) == stored(tmp_path), (number, name)
    store.compact()
    assert content(store.client) == content(oracle) == stored(tmp_path)
    store.close()
    with_edits = EmbeddedStore(tmp_path)
    assert content(with_edits.client) == content(oracle)
    with_edits.close()


def fail_after_some_writes(store: EmbeddedStore, driver: Driver) -> None:
    with store.transaction():
        for _ in range(driver.random.randrange(1, 8)):
            outcome(driver.step()[1], store.client["hopflow"]["rows"])
        raise ZeroDivisionError


@pytest.mark.parametrize("seed", range(8))
def test_transactions_are_whole_or_undone(tmp_path: Path, seed: int) -> None:
    driver = Driver(100 + seed)
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.create_index([("campaign", 1), ("material", -1)], unique=True)
    for _ in range(30):
        outcome(driver.step()[1], rows)
    for _ in range(25):
        before = content(store.client)
        with pytest.raises(ZeroDivisionError):
            fail_after_some_writes(store, driver)
        assert content(store.client) == before == stored(tmp_path)
        with store.transaction():
            outcome(driver.step()[1], rows)
            middle = content(store.client)
            with pytest.raises(ZeroDivisionError):
                fail_after_some_writes(store, driver)
            assert content(store.client) == middle
            with store.transaction():
                outcome(driver.step()[1], rows)
            for _ in range(driver.random.randrange(4)):
                outcome(driver.step()[1], rows)
            assert stored(tmp_path) == before  # nothing shows before the end
        assert content(store.client) == stored(tmp_path)


def test_a_collection_dropped_or_renamed_inside_a_transaction(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    database = store.client["hopflow"]
    with store.transaction():
        database["rows"].insert_one({"_id": 1, "n": 1})
        database["rows"].drop()
        database["rows"].insert_one({"_id": 1, "n": 2})
        database["copies"].insert_one({"_id": 1, "n": 3})
        database["copies"].rename("renamed")
        database["copies"].insert_one({"_id": 1, "n": 4})
        database["renamed"].update_one({"_id": 1}, {"$inc": {"n": 10}})
    found = {name: database[name].find_one({"_id": 1})["n"] for name in ("rows", "copies", "renamed")}
    assert found == {"rows": 2, "copies": 4, "renamed": 13}
    assert content(store.client) == stored(tmp_path)


def test_a_failed_update_changes_nothing_of_its_document(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.insert_many([{"_id": 0, "n": 1, "x": 1}, {"_id": 1, "n": "text", "x": 1}, {"_id": 2, "n": 1, "x": 1}])
    with pytest.raises(TypeError):
        rows.update_many({}, {"$set": {"x": 2}, "$inc": {"n": 1}})
    # As on a server: the documents before the failing one are done, it and those after it are not.
    expected = [{"_id": 0, "n": 2, "x": 2}, {"_id": 1, "n": "text", "x": 1}, {"_id": 2, "n": 1, "x": 1}]
    assert list(rows.find()) == expected
    assert list(EmbeddedStore(tmp_path, read_only=True).client["hopflow"]["rows"].find()) == expected
    with pytest.raises(bson.errors.InvalidDocument):
        rows.update_one({"_id": 0}, {"$set": {"x": object()}})
    rows.update_one({"_id": 2}, {"$set": {"n": 2**62}})
    with pytest.raises(OverflowError):
        rows.update_one({"_id": 2}, {"$inc": {"n": 2**62}, "$set": {"x": 9}})
    assert rows.find_one({"_id": 2}) == {"_id": 2, "n": 2**62, "x": 1}
    assert content(store.client) == stored(tmp_path)


def test_types_survive_the_log_and_the_snapshot(tmp_path: Path) -> None:
    document = {
        "_id": {"campaign": "c", "parts": [1, "b"], "of": {"x": 1}},
        "oid": ObjectId(),
        "at": dt.datetime(2026, 11, 20, 7, 46, 1, 123000),
        "old": dt.datetime(1901, 2, 3, 4, 5, 6, 789000),
        "nan": float("nan"),
        "infinite": [float("inf"), -float("inf"), -0.0],
        "long": Int64(2**62),
        "small": Int64(7),
        "bytes": b"\x00\xff",
        "none": None,
        "true": True,
        "nested": {"date": "no date", "list": [[], {}, [{"deep": [1.5, "Å"]}]]},
    }
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.insert_one(document)
    rows.insert_one({"_id": ObjectId(), "tuple": (1, 2)})
    with pytest.raises(DuplicateKeyError):
        rows.insert_one({"_id": {"campaign": "c", "parts": [1, "b"], "of": {"x": 1}}})
    expected = bson.encode(document)
    for client in (store.client, EmbeddedStore(tmp_path, read_only=True).client):
        found = client["hopflow"]["rows"].find_one({"_id": document["_id"]})
        assert bson.encode(found) == expected
        assert client["hopflow"]["rows"].find_one({"tuple": [1, 2]}) is not None
    rows.update_one({"_id": document["_id"]}, {"$set": {"small": 8}})
    rows.delete_one({"_id": document["_id"]})
    assert stored(tmp_path) == content(store.client)


def test_documents_that_are_handed_out_are_copies(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    mine = {"_id": 1, "list": [1]}
    rows.insert_one(mine)
    mine["list"].append(2)
    for found in (rows.find_one(), next(rows.find()), next(iter(rows.aggregate([{"$match": {}}])))):
        found["list"].append(3)
    rows.find_one({}, {"list": 1})["list"].append(4)
    assert rows.find_one() == {"_id": 1, "list": [1]}


def test_indexes_that_delete_by_themselves_are_refused(tmp_path: Path) -> None:
    rows = EmbeddedStore(tmp_path).client["hopflow"]["rows"]
    with pytest.raises(OperationFailure, match="after a time"):
        rows.create_index("at", expireAfterSeconds=1)


# ---- the file


def test_a_torn_tail_leaves_the_state_before(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.insert_one({"_id": 1, "n": 1})
    before, cut = content(store.client), store.bytes
    with store.transaction():
        rows.update_one({"_id": 1}, {"$set": {"n": 2}})
        rows.insert_one({"_id": 2})
    after = content(store.client)
    whole = (tmp_path / "store.log").read_bytes()
    for length in range(cut, len(whole) + 1):
        other = tmp_path / "copy"
        other.mkdir(exist_ok=True)
        (other / "store.log").write_bytes(whole[:length])
        assert stored(other) == (after if length == len(whole) else before)
    for garbage in (b"\0" * 5000, b"\xf1HF\x01" * 100, os.urandom(300)):
        (other / "store.log").write_bytes(whole[:cut] + garbage)
        torn = EmbeddedStore(other)
        assert (other / "store.log").stat().st_size == cut
        assert content(torn.client) == before
        torn.client["hopflow"]["rows"].insert_one({"_id": 3})
        assert content(torn.client) == stored(other)
        torn.close()


@pytest.mark.parametrize("length", range(len(HEADER) + 1))
def test_a_log_that_ends_in_its_header_is_a_new_one(tmp_path: Path, length: int) -> None:
    (tmp_path / "store.log").write_bytes(HEADER[:length])
    store = EmbeddedStore(tmp_path)
    store.client["hopflow"]["rows"].insert_one({"_id": 1})
    assert stored(tmp_path) == content(store.client) != {}


def test_damage_in_the_middle_is_not_taken_for_a_torn_tail(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.insert_one({"_id": 1})
    at = store.bytes
    rows.insert_one({"_id": 2, "text": "x" * 200})
    rows.insert_one({"_id": 3})
    path = tmp_path / "store.log"
    data = bytearray(path.read_bytes())
    data[at + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatabaseError, match=f"damaged at byte {at}"):
        EmbeddedStore(tmp_path, read_only=True)
    path.write_bytes(b"something else entirely")
    with pytest.raises(DatabaseError, match="is not a store"):
        EmbeddedStore(tmp_path, read_only=True)


def test_a_full_disk_costs_one_write_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.insert_one({"_id": 1, "n": 1})
    before = content(store.client)
    real = os.pwrite

    def half(descriptor: int, data: Any, offset: int) -> int:
        real(descriptor, data[:10], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hopflow.workflows.journal.os.pwrite", half)
    with pytest.raises(DatabaseError, match="No space left"):
        rows.update_one({"_id": 1}, {"$set": {"n": 2}})
    monkeypatch.setattr("hopflow.workflows.journal.os.pwrite", real)
    assert content(store.client) == before == stored(tmp_path)
    rows.insert_one({"_id": 2})
    assert content(store.client) == stored(tmp_path)


def test_the_log_is_compacted_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_COMPACT_BYTES", 20_000)
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.insert_many([{"_id": i, "text": "x" * 100} for i in range(20)])
    written = 0
    for i in range(600):
        rows.update_one({"_id": i % 20}, {"$set": {"n": i}})
        written += 150
    assert store.bytes < 40_000 < written
    assert content(store.client) == stored(tmp_path)


# ---- processes

WRITER = """
    import sys
    from pathlib import Path
    from hopflow.workflows import embedded
    embedded._COMPACT_BYTES = 4000
    store = embedded.EmbeddedStore(Path(sys.argv[1]))
    rows, sums = store.client["hopflow"]["rows"], store.client["hopflow"]["sums"]
    rows.create_index("n")
    i = rows.count_documents({})
    while True:
        with store.transaction():
            rows.insert_one({"_id": i, "n": i % 7, "text": "x" * 50})
            sums.update_one({"_id": "sum"}, {"$inc": {"count": 1, "sum": i}}, upsert=True)
        i += 1
        print(i, flush=True)
"""


def check_sums(store: EmbeddedStore) -> int:
    rows, sums = store.client["hopflow"]["rows"], store.client["hopflow"]["sums"]
    numbers = [row["_id"] for row in rows.find({}, {"_id": 1})]
    total = sums.find_one() or {"count": 0, "sum": 0}
    assert numbers == list(range(len(numbers)))
    assert (total["count"], total["sum"]) == (len(numbers), sum(numbers))
    return len(numbers)


def test_kill_9_at_any_moment_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    rng = random.Random(1)
    count = 0
    for _ in range(6):
        writer = run_child(WRITER, tmp_path)
        assert writer.stdout is not None
        answered = int(writer.stdout.readline())
        deadline = time.monotonic() + rng.uniform(0.05, 0.4)
        while time.monotonic() < deadline:
            check_sums(EmbeddedStore(tmp_path, read_only=True))  # a reader beside the writer sees whole states
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        answered = max([answered, *(int(line) for line in rest[:-1])])
        store = EmbeddedStore(tmp_path)  # the lock died with its holder
        found = check_sums(store)
        assert found >= answered > count
        count = found
        if rng.random() < 0.5:
            store.close()
        else:  # leave it as a kill would
            store._journal.close()
            assert store._lock is not None
            store._lock.release()


def test_one_writer_and_a_message_that_names_it(tmp_path: Path) -> None:
    writer = run_child(WRITER, tmp_path)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(DatabaseError, match=f"in use by process {writer.pid} on .*stop it") as caught:
            EmbeddedStore(tmp_path)
        assert "\n" not in str(caught.value)
    finally:
        writer.kill()
        writer.communicate()
    EmbeddedStore(tmp_path).close()


def test_a_second_open_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    with pytest.raises(DatabaseError, match=f"process {os.getpid()}"):
        EmbeddedStore(tmp_path)
    store.close()
    EmbeddedStore(tmp_path).close()


def test_a_forked_child_neither_keeps_the_lock_nor_writes(tmp_path: Path) -> None:
    parent = run_child(
        """
        import os, sys, time
        from pathlib import Path
        from hopflow.workflows.embedded import EmbeddedStore
        store = EmbeddedStore(Path(sys.argv[1]))
        child = os.fork()
        if child == 0:
            try:
                store.client["hopflow"]["rows"].insert_one({})
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            print("child", os.getpid(), flush=True)
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        """,
        tmp_path,
    )
    assert parent.stdout is not None
    assert "belongs to process" in parent.stdout.readline()
    child = int(parent.stdout.readline().split()[1])
    parent.kill()
    parent.wait()
    try:
        EmbeddedStore(tmp_path).close()
        os.kill(child, 0)  # the child is still there
    finally:
        os.kill(child, signal.SIGKILL)
    parent.communicate()


def test_readers_change_nothing(tmp_path: Path) -> None:
    absent = EmbeddedStore(tmp_path / "absent", read_only=True)
    assert content(absent.client) == {}
    assert not (tmp_path / "absent").exists()
    store = EmbeddedStore(tmp_path / "here")
    store.client["hopflow"]["rows"].insert_one({"_id": 1, "n": 1})
    files = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    reader = EmbeddedStore(tmp_path / "here", read_only=True)
    rows = reader.client["hopflow"]["rows"]
    for write in (
        lambda: rows.insert_one({"_id": 2}),
        lambda: rows.update_one({}, {"$set": {"n": 2}}),
        lambda: rows.delete_many({}),
        rows.drop,
        lambda: rows.create_index("n"),
        lambda: rows.bulk_write([pymongo.ReplaceOne({"_id": 1}, {"n": 3})]),
        lambda: rows.find_one_and_delete({}),
        lambda: reader.client.drop_database("hopflow"),
    ):
        with pytest.raises(DatabaseError, match="reading only"):
            write()
    assert rows.find_one() == {"_id": 1, "n": 1}
    reader.close()
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == files
    store.close()
    with pytest.raises(DatabaseError, match="closed"):
        store.client["hopflow"]["rows"].insert_one({})


# ---- the snapshot for mongomock-persistence


def edit_with_mongomock_persistence(snapshot: Path, code: str) -> str:
    """Run code as plain FireWorks would: `client` is mongomock-persistence's, which rewrites the file at exit."""
    child = run_child(
        "import mongomock_persistence\nclient = mongomock_persistence.MongoClient()\n" + code,
        env={**os.environ, "MONGOMOCK_SERVERSTORE_FILE": str(snapshot)},
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return out


def test_edits_of_the_snapshot_are_taken_over_when_they_are_newest(tmp_path: Path, caplog: Any) -> None:
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    rows.create_index("n", unique=True)
    rows.insert_many([{"_id": i, "n": i, "at": dt.datetime(2026, 1, 1), "x": float("nan")} for i in range(4)])
    rows.insert_one({"_id": {"a": 1}, "n": 10})
    store.close()
    expected = stored(tmp_path)

    out = edit_with_mongomock_persistence(store.snapshot, "print(client['hopflow']['rows'].count_documents({}))")
    assert out.split() == ["5"]
    assert stored(tmp_path) == expected

    code = """rows = client['hopflow']['rows']
rows.delete_one({'_id': 0}); rows.update_one({'_id': 1}, {'$set': {'n': 11}}); rows.insert_one({'_id': 9, 'n': 9})"""
    edit_with_mongomock_persistence(store.snapshot, code)
    store = EmbeddedStore(tmp_path)
    rows = store.client["hopflow"]["rows"]
    assert {row["n"] for row in rows.find()} == {11, 2, 3, 9, 10}
    assert rows.index_information()["n_1"]["unique"]
    assert stored(tmp_path) == content(store.client)

    rows.insert_one({"_id": 20, "n": 20})
    newest = content(store.client)
    stale = store.snapshot.read_bytes()
    store.close()
    store.snapshot.write_bytes(stale)  # a reader that had loaded the older snapshot rewrites it at its exit
    store = EmbeddedStore(tmp_path)
    assert content(store.client) == newest
    assert "older than the store" in caplog.text
    store.close()
    store.snapshot.write_bytes(stale[: len(stale) // 2])
    store = EmbeddedStore(tmp_path)
    assert content(store.client) == newest
    store.close()
    assert json.loads(store.snapshot.read_text())["hopflow"]["rows"]["name"] == "rows"


def test_frames_carry_their_own_check() -> None:
    frame = encode_frame(5, b"abc")
    assert frame.startswith(b"\xf1HF\x01")
    assert frame.endswith(b"abc")
    assert encode_frame(6, b"abc")[8:12] != frame[8:12]
