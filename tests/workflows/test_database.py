"""Both kinds of database under FireWorks, jobflow and the ledger; launchpad files, settings, plain lpad, workers."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import yaml
from fireworks import Firework, FWAction, FWorker, LaunchPad, PyTask, ScriptTask, Workflow
from fireworks.utilities.fw_serializers import SAVED_FW_MODULES
from hopflow.workflows.database import (
    Database,
    DatabaseError,
    create_indexes,
    jobflow_settings_yaml,
    open_database,
    use_job_store,
)
from hopflow.workflows.launchpads import LAUNCHPAD_KEYS, connection_arguments, read_launchpad_file
from hopflow.workflows.settings import Settings, load_settings

LAUNCHPAD_FILE = Path(__file__).parents[2] / "launchpad.yaml"
MONGO_URI = os.environ.get("HOPFLOW_TEST_MONGO_URI", "")
needs_mongo = [
    pytest.mark.mongo,
    pytest.mark.skipif(not MONGO_URI, reason="HOPFLOW_TEST_MONGO_URI names no MongoDB-compatible server"),
]


@pytest.fixture(autouse=True)
def known_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell FireWorks where its tasks are: its search imports its own tests, which use markers of their own."""
    for name in ("ScriptTask", "PyTask"):
        monkeypatch.setitem(SAVED_FW_MODULES, name, "fireworks.user_objects.firetasks.script_task")


@pytest.fixture
def mongo_name() -> Iterator[str]:
    """A database on the test server that is dropped afterwards."""
    name = f"hopflow_test_{uuid.uuid4().hex[:12]}"
    yield name
    client: Any = pymongo.MongoClient(MONGO_URI)
    client.drop_database(name)
    client.close()


def mongo_uri(name: str) -> str:
    return f"{MONGO_URI.split('?')[0].rstrip('/')}/{name}"


@pytest.fixture(params=["embedded", pytest.param("mongodb", marks=needs_mongo)])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.chdir(tmp_path)
    if request.param == "embedded":
        target: Any = tmp_path / "home"
    else:
        target = mongo_uri(request.getfixturevalue("mongo_name"))
    with open_database(target) as opened:
        assert opened.kind == request.param
        create_indexes(opened)
        yield opened


def two_jobs(campaign: str = "c", priority: int = 1) -> Workflow:
    spec = {"campaign": campaign, "stage": "bvse", "material_ids": ["mp-1"], "_category": "cpu", "_priority": priority}
    first = Firework([ScriptTask.from_str("true")], spec=spec, name="first")
    second = Firework([ScriptTask.from_str("true")], spec=spec, name="second", parents=[first])
    return Workflow([first, second], metadata={"campaign": campaign, "stage": "bvse"})


def states(database: Database) -> dict[str, str]:
    return {row["name"]: row["state"] for row in database.launchpad.fireworks.find()}


# ---- FireWorks


def test_a_job_is_claimed_completed_and_lets_its_child_go(database: Database) -> None:
    launchpad = database.launchpad
    launchpad.add_wf(two_jobs(priority=1))
    launchpad.add_wf(two_jobs("other", priority=5))
    assert launchpad.checkout_fw(FWorker(category="gpu"), ".") == (None, None)
    firework, launch_id = launchpad.checkout_fw(FWorker(category="cpu"), ".")
    assert firework.spec["campaign"] == "other"  # the higher priority goes first
    launchpad.ping_launch(launch_id)
    launchpad.complete_launch(launch_id, FWAction(stored_data={"verdict": "passed"}), "COMPLETED")
    child, _ = launchpad.checkout_fw(FWorker(category="cpu"), ".", fw_id=None)
    assert (child.name, child.spec["campaign"]) == ("second", "other")
    launch = launchpad.get_launch_by_id(launch_id)
    assert launch.action.stored_data == {"verdict": "passed"}
    assert launchpad.get_fw_ids({"spec.campaign": "other", "state": "COMPLETED"}) == [firework.fw_id]
    assert launchpad.get_wf_ids({"metadata.campaign": "c"}, count_only=True) == 1
    summary = launchpad.get_wf_summary_dict(firework.fw_id)
    assert summary["state"] == "RUNNING"
    assert sorted(summary["states"].values()) == ["COMPLETED", "RUNNING"]


def test_lost_runs_are_found_and_rerun(database: Database) -> None:
    launchpad = database.launchpad
    launchpad.add_wf(two_jobs())
    firework, launch_id = launchpad.checkout_fw(FWorker(), ".")
    lost = launchpad.detect_lostruns(expiration_secs=0, fizzle=True, query={"spec.campaign": "c"})
    assert lost[:2] == ([launch_id], [firework.fw_id])
    assert states(database) == {"first": "FIZZLED", "second": "WAITING"}
    launchpad.rerun_fw(firework.fw_id)
    assert states(database)["first"] == "READY"
    _, launch_id = launchpad.checkout_fw(FWorker(), ".")
    assert launchpad.detect_lostruns(expiration_secs=0, rerun=True, launch_query={"launch_id": launch_id})[1]
    assert states(database)["first"] == "READY"


def test_detours_additions_defusing_priority_and_deletion(database: Database) -> None:
    launchpad = database.launchpad
    launchpad.add_wf(two_jobs())
    _, launch_id = launchpad.checkout_fw(FWorker(), ".")
    addition = Firework([ScriptTask.from_str("true")], name="addition", spec={"campaign": "c"})
    launchpad.complete_launch(launch_id, FWAction(additions=[addition]), "COMPLETED")
    assert states(database) == {"first": "COMPLETED", "second": "READY", "addition": "READY"}
    added = launchpad.get_fw_ids({"name": "addition"})[0]
    launchpad.set_priority(added, 99)
    assert launchpad.checkout_fw(FWorker(), ".")[0].name == "addition"
    second = launchpad.get_fw_ids({"name": "second"})[0]
    launchpad.defuse_fw(second)
    assert states(database)["second"] == "DEFUSED"
    launchpad.reignite_fw(second)
    assert states(database)["second"] == "READY"
    launchpad.delete_wf(second)
    assert states(database) == {}


def test_bulk_add_counts_on_from_the_stored_ids(database: Database) -> None:
    database.launchpad.add_wf(two_jobs())
    database.launchpad.bulk_add_wfs([two_jobs(f"c{i}") for i in range(5)])
    assert sorted(row["fw_id"] for row in database.launchpad.fireworks.find()) == list(range(1, 13))
    assert database.launchpad.get_new_fw_id() == 13


def test_rapidfire_runs_a_workflow(database: Database) -> None:
    from fireworks.core.rocket_launcher import rapidfire

    task = PyTask(func="builtins.len", args=[[1, 2, 3]], stored_data_varname="length")
    database.launchpad.add_wf(Workflow([Firework([task], name="length")]))
    rapidfire(database.launchpad, FWorker(), strm_lvl="CRITICAL")
    launch = database.launchpad.launches.find_one({})
    assert (launch["state"], launch["action"]["stored_data"]) == ("COMPLETED", {"length": 3})


def test_an_embedded_launchpad_call_is_one_change(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    create_indexes(database)
    assert database.store is not None
    journal = database.store._journal
    for call in (
        lambda: database.launchpad.add_wf(two_jobs()),
        lambda: database.launchpad.checkout_fw(FWorker(), "."),
        lambda: database.launchpad.complete_launch(1, FWAction(), "COMPLETED"),
    ):
        before = journal.sequence
        call()
        assert journal.sequence == before + 1
    assert states(database) == {"first": "COMPLETED", "second": "READY"}
    # A workflow lock is never on the disk between two calls, so none can be left over from a kill.
    with open_database(tmp_path, read_only=True) as reader:
        assert reader.launchpad.workflows.count_documents({"locked": True}) == 0
    database.close()


def test_a_left_over_workflow_lock_is_released_on_opening(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        create_indexes(database)
        database.launchpad.add_wf(two_jobs())
        database.launchpad.workflows.update_one({}, {"$set": {"locked": True}})
    with open_database(tmp_path) as database:
        assert database.launchpad.workflows.count_documents({"locked": True}) == 0


# ---- jobflow


def flow_of_two() -> tuple[Any, Any]:
    from jobflow import Flow, job

    adding = job(_add)
    first = adding(1, 2)
    second = adding(first.output, 5)
    return Flow([first, second]), second


def _add(a: Any, b: int) -> dict[str, Any]:
    return {"sum": (a["sum"] if isinstance(a, dict) else a) + b, "results": [{"content_key": f"key{b}"}]}


def test_jobs_keep_their_outputs_in_the_same_database(database: Database) -> None:
    import jobflow
    from jobflow import run_locally

    before = jobflow.SETTINGS.JOB_STORE
    flow, last = flow_of_two()
    with use_job_store(database) as store:
        assert jobflow.SETTINGS.JOB_STORE is store
        run_locally(flow, store=store, ensure_success=True, log=False)
    assert jobflow.SETTINGS.JOB_STORE is before
    assert database.job_store.get_output(last.uuid)["sum"] == 8
    assert database.collection("outputs").count_documents({"output.results.content_key": "key5"}) == 1
    # An output is replaced, not doubled, when its job runs again: maggma writes with bulk_write(ReplaceOne(upsert)).
    database.job_store.update(
        {"uuid": last.uuid, "index": 1, "output": {"sum": 9}, "metadata": {"campaign": "c"}}, key=["uuid", "index"]
    )
    assert database.job_store.get_output(last.uuid) == {"sum": 9}
    assert database.collection("outputs").count_documents({"uuid": last.uuid}) == 1
    assert [row["uuid"] for row in database.job_store.query({"metadata.campaign": "c"}, properties=["uuid"])] == [
        last.uuid
    ]


def test_large_parts_go_to_the_additional_store(database: Database) -> None:
    document = {"uuid": "u", "index": 1, "output": {"small": 1, "large": {"@class": "X", "values": [1, 2]}}}
    database.job_store.update(document, key=["uuid", "index"], save={"data": ["large"]})
    assert database.collection("outputs_data").count_documents({"job_uuid": "u"}) == 1
    assert database.collection("outputs").find_one({"uuid": "u"})["output"]["large"].keys() >= {"blob_uuid"}
    found = database.job_store.query_one({"uuid": "u"}, load=True)
    assert found["output"]["large"]["values"] == [1, 2]


def test_memory_stores_of_maggma_work_beside_the_embedded_one(tmp_path: Path) -> None:
    from maggma.stores import MemoryStore

    with open_database(tmp_path) as database, MemoryStore() as memory:
        memory.update({"uuid": 1, "n": 1}, key="uuid")
        database.job_store.update({"uuid": "1", "index": 1, "n": 2}, key=["uuid", "index"])
        assert memory.query_one({"uuid": 1})["n"] == 1
        assert database.job_store.count() == 1


def test_the_embedded_job_store_outlives_connect_and_close(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        database.job_store.update({"uuid": "1", "index": 1}, key=["uuid", "index"])
        database.job_store.connect(force_reset=True)
        database.job_store.close()
        database.job_store.connect()
        assert database.job_store.count() == 1


@pytest.mark.mongo
@pytest.mark.skipif(not MONGO_URI, reason="HOPFLOW_TEST_MONGO_URI names no MongoDB-compatible server")
def test_workers_elsewhere_get_the_job_store_from_a_settings_file(mongo_name: str, tmp_path: Path) -> None:
    database = open_database(mongo_uri(mongo_name))
    (tmp_path / "jobflow.yaml").write_text(jobflow_settings_yaml(database))
    code = """
from jobflow import SETTINGS
SETTINGS.JOB_STORE.connect()
SETTINGS.JOB_STORE.update({"uuid": "w", "index": 1, "output": {"x": 1}}, key=["uuid", "index"])
print(SETTINGS.JOB_STORE.docs_store.collection_name, sorted(SETTINGS.JOB_STORE.additional_stores))
"""
    environment = {**os.environ, "JOBFLOW_CONFIG_FILE": str(tmp_path / "jobflow.yaml")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["outputs", "['data']"]
    assert database.job_store.get_output("w") == {"x": 1}
    database.close()


def test_an_embedded_database_cannot_be_shared(tmp_path: Path) -> None:
    with open_database(tmp_path) as database, pytest.raises(DatabaseError, match="--launchpad"):
        jobflow_settings_yaml(database)


# ---- indexes


def test_creating_indexes_again_keeps_everything(database: Database) -> None:
    database.launchpad.add_wf(two_jobs())
    database.candidates.insert_one({"campaign": "c", "material_id": "mp-1"})
    names = ("fireworks", "workflows", "launches", "fw_id_assigner", "candidates", "campaigns", "outputs")
    before = {name: list(database.collection(name).find()) for name in names}
    create_indexes(database)
    create_indexes(database)
    assert {name: list(database.collection(name).find()) for name in names} == before
    assert database.launchpad.get_new_fw_id() == 3


def test_the_indexes_that_a_campaign_needs(database: Database) -> None:
    def keys(name: str) -> set[tuple[str, ...]]:
        return {tuple(f for f, _ in i["key"]) for i in database.collection(name).index_information().values()}

    assert keys("fireworks") >= {("fw_id",), ("state",), ("spec.campaign",), ("spec.stage",), ("spec.material_ids",)}
    assert keys("workflows") >= {("nodes",), ("metadata.campaign",)}
    assert keys("outputs") >= {
        ("uuid", "index"),
        ("output.results.content_key",),
        ("metadata.campaign", "completed_at"),
    }
    stages = ("intake", "bvse", "gnn", "pes", "neb", "dft")
    assert keys("candidates") >= {("campaign", f"stages.{stage}.status") for stage in stages}
    database.candidates.insert_one({"campaign": "c", "material_id": "mp-1"})
    database.candidates.insert_one({"campaign": "d", "material_id": "mp-1"})
    with pytest.raises(pymongo.errors.DuplicateKeyError):
        database.candidates.insert_one({"campaign": "c", "material_id": "mp-1"})
    database.campaigns.insert_one({"name": "c"})
    with pytest.raises(pymongo.errors.DuplicateKeyError):
        database.campaigns.insert_one({"name": "c"})


def test_lost_counters_go_on_after_the_highest_id(database: Database) -> None:
    database.launchpad.add_wf(two_jobs())
    database.launchpad.checkout_fw(FWorker(), ".")
    database.launchpad.fw_id_assigner.delete_many({})
    create_indexes(database)
    assert (database.launchpad.get_new_fw_id(), database.launchpad.get_new_launch_id()) == (3, 2)


def test_rows_that_contradict_a_unique_index_are_named(database: Database) -> None:
    database.candidates.drop()
    database.candidates.insert_many([{"campaign": "c", "material_id": "mp-1"} for _ in range(2)])
    with pytest.raises(DatabaseError, match="index cannot be created"):
        create_indexes(database)
    assert database.candidates.count_documents({}) == 2


def test_both_kinds_live_in_one_process(tmp_path: Path) -> None:
    with open_database(tmp_path / "a") as one, open_database(tmp_path / "b") as other:
        for database in (one, other):
            create_indexes(database)
        one.launchpad.add_wf(two_jobs())
        assert (one.launchpad.get_wf_ids(count_only=True), other.launchpad.get_wf_ids(count_only=True)) == (1, 0)


# ---- plain lpad


def lpad(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from fireworks.scripts.lpad_run import lpad; lpad()", *arguments],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_lpad_reads_and_changes_a_closed_embedded_database(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_database(home) as database:
        create_indexes(database)
        database.launchpad.add_wf(two_jobs())
        _, launch_id = database.launchpad.checkout_fw(FWorker(), ".")
        database.launchpad.complete_launch(launch_id, FWAction(), "FIZZLED")
        assert states(database) == {"first": "FIZZLED", "second": "WAITING"}
    listing = yaml.safe_load(lpad("-l", "launchpad.yaml", "get_wflows", cwd=home))  # its own files name the snapshot
    assert (listing["state"], listing["states_list"]) == ("FIZZLED", "W-F")
    snapshot = str(home / "server.json")
    shown = lpad("-l", str(LAUNCHPAD_FILE), "get_wflows", cwd=tmp_path, MONGOMOCK_SERVERSTORE_FILE=snapshot)
    assert yaml.safe_load(shown) == listing
    lpad("-l", "launchpad.yaml", "rerun_fws", "-s", "FIZZLED", cwd=home)
    with open_database(home, read_only=True) as database:
        assert states(database) == {"first": "READY", "second": "WAITING"}
    with open_database(home) as database:
        assert states(database) == {"first": "READY", "second": "WAITING"}
        assert database.launchpad.checkout_fw(FWorker(), ".")[0].name == "first"


@pytest.mark.mongo
@pytest.mark.skipif(not MONGO_URI, reason="HOPFLOW_TEST_MONGO_URI names no MongoDB-compatible server")
def test_the_shipped_launchpad_file_works_on_a_server(mongo_name: str, tmp_path: Path) -> None:
    host, port = pymongo.uri_parser.parse_uri(MONGO_URI)["nodelist"][0]
    content = yaml.safe_load(LAUNCHPAD_FILE.read_text())
    path = tmp_path / "my_launchpad.yaml"
    path.write_text(yaml.safe_dump({**content, "host": host, "port": port, "name": mongo_name}))
    with open_database(path) as database:
        assert database.description == f"MongoDB database {mongo_name} at {host}:{port}"
        create_indexes(database)
        database.launchpad.add_wf(two_jobs())
        plain = LaunchPad.from_file(str(path))
        assert plain.get_wf_ids(count_only=True) == 1
        assert "first" in lpad("-l", str(path), "get_wflows", "-d", "more", cwd=tmp_path)


# ---- launchpad files and settings


def test_the_shipped_launchpad_file_says_what_fireworks_reads() -> None:
    content = yaml.safe_load(LAUNCHPAD_FILE.read_text())
    assert set(content) == set(LAUNCHPAD_KEYS)
    plain = LaunchPad.from_file(str(LAUNCHPAD_FILE))
    for key, value in read_launchpad_file(LAUNCHPAD_FILE).items():
        if key not in ("authsource", "mongoclient_kwargs"):
            assert getattr(plain, key) == value, key
    assert plain.authsource == plain.name  # FireWorks' own default
    assert {"spec.campaign", "spec.stage"} <= set(plain.user_indices)
    plain.connection.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("host: x\nuri_store: y\n", "has the key `uri_store`, which FireWorks ignores"),
        ("host: x\nIstrm_lvl: INFO\n", "`Istrm_lvl`, which FireWorks ignores; did you mean `strm_lvl`?"),
        ("port: 27017\n", "names no `host`"),
        ("uri_mode: true\nhost: mongodb://h:1\n", "names no database: set `name`"),
        ("- a\n", "holds no keys"),
        ("host: [\n", "is not YAML"),
    ],
)
def test_a_wrong_launchpad_file_is_refused_in_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "l.yaml").write_text(text)
    with pytest.raises(DatabaseError) as caught:
        open_database(tmp_path / "l.yaml")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DatabaseError, match="cannot be read"):
        open_database(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        ({"host": "h"}, {"host": "h", "port": 27017}),
        (
            {"host": "h", "port": 1, "name": "n", "username": "u", "password": "p"},
            {"host": "h", "port": 1, "username": "u", "password": "p", "authSource": "n"},
        ),
        ({"host": "mongodb://h/n", "uri_mode": True, "mongoclient_kwargs": {"tls": True}}, {"tls": True}),
    ],
)
def test_connections_follow_fireworks_rules(content: dict[str, Any], arguments: dict[str, Any]) -> None:
    made = connection_arguments(content)
    assert made["serverSelectionTimeoutMS"] == 3000
    assert arguments.items() <= made.items()


def test_a_server_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as caught:
        open_database("mongodb://user:s3cret@127.0.0.1:9/db?retryWrites=true")
    message = str(caught.value)
    assert "MongoDB database db at mongodb://127.0.0.1:9/db does not answer within 3 s" in message
    assert "s3cret" not in message
    assert "\n" not in message
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        open_database("mongodb://user:s3c/ret@host:port/db")
    assert "s3c" not in str(caught.value)
    assert "ret" not in str(caught.value)


def test_where_the_database_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HOPFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launchpad.yaml").write_text("host: nowhere.invalid\n")
    assert load_settings().target == Path(".hopflow")  # a launchpad file that merely lies there is not used
    assert load_settings(home=Path("h")).target == Path("h")
    monkeypatch.setenv("HOPFLOW_HOME", "from_environment")
    assert load_settings().target == Path("from_environment")
    monkeypatch.setenv("HOPFLOW_LAUNCHPAD", "l.yaml")
    assert load_settings().target == Path("l.yaml")
    assert load_settings(launchpad=Path("other.yaml")).target == Path("other.yaml")
    assert load_settings(database="mongodb://h/n").target == "mongodb://h/n"
    monkeypatch.setenv("HOPFLOW_DATABASE", "mongodb://h/n")
    assert load_settings(launchpad=Path("other.yaml")).target == Path("other.yaml")
    with pytest.raises(Exception, match="give one of them"):
        _ = load_settings().target
    monkeypatch.setenv("HOPFLOW_LOG_LEVEL", "LOUD")
    with pytest.raises(Exception, match="HOPFLOW_LOG_LEVEL"):
        load_settings()


def test_open_database_takes_settings_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOPFLOW_LAUNCHPAD", raising=False)
    monkeypatch.delenv("HOPFLOW_DATABASE", raising=False)
    with open_database(Settings(home=tmp_path / "s")) as database:
        database.ping()
        assert database.description == f"embedded database in {tmp_path / 's'}"
    with open_database(home=tmp_path / "s", read_only=True) as database:
        with pytest.raises(DatabaseError, match="reading only"):
            create_indexes(database)
        assert database.campaigns.count_documents({}) == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="neither a folder nor a launchpad file"):
        open_database(tmp_path / "file")


def test_fireworks_mongomock_mode_in_the_environment_does_not_matter(tmp_path: Path) -> None:
    """FireWorks picks its client class when it is imported; hopflow's databases do not depend on that."""
    (tmp_path / "elsewhere.json").write_text("{}")
    code = """
import sys
from pathlib import Path
import fireworks.core.launchpad
from hopflow.workflows.database import create_indexes, open_database
with open_database(Path(sys.argv[1])) as database:
    create_indexes(database)
    print(type(database.launchpad.connection).__name__, fireworks.core.launchpad.MongoClient.__module__)
"""
    for environment, client in ({}, "pymongo"), ({"MONGOMOCK_SERVERSTORE_FILE": "elsewhere.json"}, "mongomock"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / client)], cwd=tmp_path, env={**os.environ, **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-2] == "EmbeddedClient"
        assert done.stdout.split()[-1].startswith(client)
    assert (tmp_path / "elsewhere.json").read_text() == "{}"
