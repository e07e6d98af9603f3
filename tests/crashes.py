"""Kill -9 after a chosen write to the database, in campaigns whose stages answer at once.

The stages are real to the engine (Makers, documents, gates, content keys); their number is a plain function of the
crystal, so that a whole campaign takes a second and its ledger is known beforehand.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pymongo.monitoring
from hopflow.makers.documents import StageDocument
from hopflow.makers.quantities import Quantity
from hopflow.makers.settings import StageSettings
from hopflow.makers.stage import StageMaker
from hopflow.transport.errors import NoHopsError, NonFiniteEnergyError, NotConvergedError, WeightsError
from hopflow.workflows import assembly, journal, launcher
from hopflow.workflows.database import Database
from hopflow.workflows.ledger import Ledger
from hopflow.workflows.spec import CampaignSpec
from places import Place

for _name in (
    "jobflow.managers.fireworks",
    "mongomock.gridfs",
    "pymatgen.io.cif",
    "pymatgen.symmetry.analyzer",
    "hopflow.transport.bvse",
    "hopflow.workflows.embedded",
    "hopflow.workflows.intake",
    "hopflow.workflows.snapshot",
):
    importlib.import_module(_name)  # once here, not in every forked child


TROUBLE = "HOPFLOW_TEST_TROUBLE"
"""Names a JSON file that says which stage is ``broken`` or lets every candidate be ``failed``."""


class NumberDocument(StageDocument):
    default_quantity: ClassVar[Quantity] = Quantity.BARRIER_1D

    barrier_1d_eV: float | None
    images_written: float | None = None


@dataclass
class InstantMaker(StageMaker):
    """Answers with the volume of the primitive cell, shifted by the stage; odd cells have their own fates."""

    settings: StageSettings = field(default_factory=StageSettings)

    document: ClassVar[type[StageDocument]] = NumberDocument
    shift: ClassVar[float] = 0.0

    def compute(self, structure: Any, *_: Any) -> dict[str, Any]:
        number = round(structure.volume ** (1 / 3), 2)
        if self.stage == "bvse" and number > 6:
            raise NoHopsError("This one never has hops.")
        if self.stage == "neb" and 5.1 < number < 5.2:
            raise NonFiniteEnergyError("This one has no energy.")
        trouble = json.loads(Path(os.environ[TROUBLE]).read_text()) if TROUBLE in os.environ else {}
        if trouble.get(self.stage) == "broken":
            raise WeightsError("This stage has no weights.")
        if trouble.get(self.stage) == "failed":
            raise NotConvergedError("This stage does not converge.")
        value = None if self.stage == "bvse" and 5.8 < number < 6 else number + self.shift
        return {"method": "volume", "barrier_1d_eV": value, "images_written": 5.0}


@dataclass
class InstantBvse(InstantMaker):
    stage: ClassVar[str] = "bvse"


@dataclass
class InstantGnn(InstantMaker):
    stage: ClassVar[str] = "gnn"
    shift: ClassVar[float] = 10.0


@dataclass
class InstantPes(InstantMaker):
    stage: ClassVar[str] = "pes"
    category: ClassVar[str] = "gpu"
    fan_out: ClassVar[bool] = True


@dataclass
class InstantNeb(InstantMaker):
    stage: ClassVar[str] = "neb"
    category: ClassVar[str] = "gpu"
    fan_out: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        return ("gnn",)


@dataclass
class InstantDft(InstantMaker):
    stage: ClassVar[str] = "dft"
    category: ClassVar[str] = "dft"
    fan_out: ClassVar[bool] = True
    reusable: ClassVar[bool] = False


MAKERS = {m.stage: m for m in (InstantBvse, InstantGnn, InstantPes, InstantNeb, InstantDft)}


def instant_maker(stage: str, ion: str, settings: Any = None) -> StageMaker:
    return MAKERS[stage](ion=ion)


def rock_salt(name: str, edge_A: float) -> dict[str, Any]:
    return {"material_id": name, "formula": "LiF", "cell": [edge_A] * 3 + [60.0] * 3, "species": ["Li", "F"],
            "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}  # fmt: skip


FUNNEL: dict[str, Any] = {"bvse": {"gate": {"max": 5.5}}, "gnn": {"gate": {"top": 3}}, "pes": {}, "neb": {}, "dft": {}}
"""A threshold that streams, a budget that waits, a parallel level with its join, and a last stage."""


def write_rows(folder: Path, edges_A: Mapping[str, float]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(rock_salt(name, edge)) for name, edge in edges_A.items()) + "\n")
    return path


def spec_of(folder: Path, name: str = "storm", stages: dict[str, Any] | None = None, **changes: Any) -> CampaignSpec:
    edges = changes.pop("edges_A", {"a": 5.6, "b": 5.7, "c": 5.75, "d": 6.0, "e": 6.6, "f": 6.9})
    rows = write_rows(folder, edges)
    return CampaignSpec(
        name=name, materials={"structures": str(rows)}, stages=stages or FUNNEL, chunk_size=2, **changes
    )


def use_instant_stages(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let campaigns of this process have the instant stages, in compute processes that are forked, not spawned."""
    patch(assembly, "stage_maker", instant_maker)
    fork = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    patch(launcher, "multiprocessing", fork)


class _Killer(pymongo.monitoring.CommandListener):
    WRITES = ("insert", "update", "delete", "findAndModify", "findandmodify")

    def __init__(self, after: int) -> None:
        self.left = after
        self.process = os.getpid()

    def count(self) -> None:
        if os.getpid() != self.process:
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def started(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...

    def succeeded(self, event: Any) -> None:
        if event.command_name in self.WRITES:
            self.count()


def start_forked(place: Place, action: Callable[[Database], Any], kill_after: int = 0) -> int:
    """Do something to the place's database in a child process that kills itself after so many writes; return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child > 0:
        return child
    code = 1
    try:
        use_instant_stages()
        if kill_after:
            _kill_after(place, kill_after)
        with place.open() as database:
            action(database)
        code = 0
    except Exception:  # noqa: BLE001  the child must end here, whatever happens
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _kill_after(place: Place, writes: int) -> None:
    killer = _Killer(writes)
    if place.uri is not None:
        pymongo.monitoring.register(killer)
        return
    append = journal.Journal.append

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        append(self, *args, **kwargs)
        killer.count()

    journal.Journal.append = counted  # type: ignore[method-assign]


def was_killed(child: int) -> bool:
    """Wait for a child process; true when it was killed, an error when it failed by itself."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert os.WEXITSTATUS(status) == 0, "the child process failed; its traceback is on the error stream"
    return False


def forked(place: Place, action: Callable[[Database], Any], kill_after: int = 0) -> bool:
    """Do something to the place's database in a child process; true when it was killed after that many writes."""
    return was_killed(start_forked(place, action, kill_after))


def verdicts(database: Database, name: str = "storm") -> dict[str, Any]:
    """The ledger without what must differ between two runs: times and folders."""
    ledger = Ledger(database, name)
    kept = ("status", "reason", "value", "threshold", "quantity", "error_class", "message", "job_uuid", "reused_from")
    found: dict[str, Any] = {
        row["material_id"]: {
            stage: {key: entry[key] for key in kept if key in entry} for stage, entry in row["stages"].items()
        }
        for row in ledger.rows()
    }
    found["state"] = ledger.document["state"]
    found["budgets"] = ledger.document["budgets"]
    return found


def faults(database: Database, name: str = "storm") -> list[str]:
    """What is wrong with the launchpad's books of a finished campaign."""
    pad = database.launchpad
    jobs = {job["fw_id"]: job for job in pad.fireworks.find({"spec.campaign": name})}
    found = [f"job {i} ({job['name']}) is {job['state']}" for i, job in jobs.items() if job["state"] != "COMPLETED"]
    uuids = [job["spec"]["job_uuid"] for job in jobs.values()]
    found += [f"job {uuid} is there twice" for uuid in {u for u in uuids if uuids.count(u) > 1}]
    nodes = []
    for workflow in pad.workflows.find({"metadata.campaign": name}):
        nodes += workflow["nodes"]
        if "locked" in workflow:
            found.append(f"workflow {workflow['nodes']} is locked")
        if workflow["state"] != "COMPLETED":
            found.append(f"workflow {workflow['nodes']} is {workflow['state']}")
        for node, state in workflow["fw_states"].items():
            if int(node) in jobs and jobs[int(node)]["state"] != state:
                found.append(f"workflow says that job {node} is {state}")
    if sorted(nodes) != sorted(jobs):
        found.append(f"workflows hold {sorted(nodes)}, jobs are {sorted(jobs)}")
    return found
