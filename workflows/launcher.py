"""The launcher: takes jobs off the launchpad and runs them in a pool of compute processes.

Only the launcher touches the database. FireWorks keeps the books as ever: a job is checked out, pinged while it runs,
and completed or fizzled with its action, so that ``lpad`` shows the truth. Several launchers may share one MongoDB;
the embedded database has one.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flows.screening import JobProgress, diary_path
from ..transport.errors import HopflowError
from .additions import funnel_of
from .campaign import advance
from .ledger import Ledger
from .liveness import is_dead, launcher_name
from .mending import mend_half_done
from .worker import work

if TYPE_CHECKING:
    from .database import Database

PING_SECONDS = 60.0
OTHERS_SECONDS = 1.0
"""How often a launcher that has nothing to do looks whether another's job has brought something."""
SILENT_SECONDS = 600.0
"""A launcher that gave no sign of life for so long is not waited for."""


@dataclass
class ComputeProcess:
    """One process of the pool and the job that it has in hand."""

    process: Any
    connection: Connection
    firework: Any = None
    launch_id: int | None = None

    @property
    def busy(self) -> bool:
        """Whether it has a job in hand."""
        return self.firework is not None


@dataclass
class Launcher:
    """Runs campaigns until nothing is left to do.

    Parameters
    ----------
    database
        The open database, not read-only.
    campaigns
        Names of the campaigns.
    workers
        Compute processes.
    categories
        Only take jobs of these categories (``cpu``, ``gpu``, ``dft``); every category when empty.
    on_change
        Called after every change and about once a second, for the live table.
    """

    database: Database
    campaigns: list[str]
    workers: int = 2
    categories: list[str] = field(default_factory=list)
    on_change: Callable[[], None] | None = None
    jobs_done: int = 0
    jobs_failed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Work until every campaign is finished, then stop the compute processes.

        Raises
        ------
        HopflowError
            The folder of a campaign's checkpoints cannot be written on this machine.
        """
        for name in self.campaigns:
            _check_folder(Path(funnel_of(Ledger(self.database, name)).diary_folder))
            mend_half_done(self.database, name)
        pool: list[ComputeProcess] = []
        try:
            self._work(pool)
        finally:
            for member in pool:
                _stop(member)

    def _work(self, pool: list[ComputeProcess]) -> None:
        last_ping = time.monotonic()
        while True:
            started = self._hand_out(pool)
            busy = [member for member in pool if member.busy]
            if not busy and not started:
                moved = [advance(self.database, name) for name in self.campaigns]
                self._changed()
                if any(step.workflows_added or step.budgets_shared for step in moved):
                    continue
                if not self._others_at_work():
                    return
                # What they find may give this launcher something to do: a budget to share, a gate that lets through.
                time.sleep(OTHERS_SECONDS)
                continue
            sources = [source for member in busy for source in (member.connection, member.process.sentinel)]
            ready = set(wait(sources, timeout=1.0))
            for member in busy:
                # What a process said before it died counts; its end of the pipe tells that nothing more will come.
                alive = member.process.sentinel not in ready
                if member.connection in ready:
                    alive = self._listen(member)
                if not alive:
                    self._bury(member)
                    pool.remove(member)
            if time.monotonic() - last_ping > PING_SECONDS:
                last_ping = time.monotonic()
                for member in pool:
                    if member.busy:
                        self.database.launchpad.ping_launch(member.launch_id)
            self._changed()

    def _others_at_work(self) -> bool:
        """Whether another launcher that is alive has a job of these campaigns in hand."""
        launchpad = self.database.launchpad
        running = launchpad.fireworks.find(
            {"spec.campaign": {"$in": self.campaigns}, "state": "RUNNING"}, {"launches": 1}
        )
        launches = [launch for job in running for launch in job["launches"]]
        silent_since = (datetime.now(UTC) - timedelta(seconds=SILENT_SECONDS)).isoformat()
        holders = launchpad.launches.find(
            {
                "launch_id": {"$in": launches},
                "state": "RUNNING",
                "state_history": {"$elemMatch": {"state": "RUNNING", "updated_on": {"$gt": silent_since}}},
            },
            {"fworker.name": 1},
        )
        names = {(row.get("fworker") or {}).get("name", "") for row in holders} - {launcher_name()}
        return any(not is_dead(name) for name in names)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _hand_out(self, pool: list[ComputeProcess]) -> bool:
        """Give a job to every idle process; processes are only started when there is work."""
        from fireworks import FWorker

        fworker = FWorker(
            name=launcher_name(),
            category=self.categories or "",
            query={"spec.campaign": {"$in": self.campaigns}},
        )
        handed = False
        pool[:] = [member for member in pool if member.busy or member.process.is_alive()]
        idle = [member for member in pool if not member.busy]
        while idle or len(pool) < self.workers:
            try:
                with self.database.transaction():
                    firework, launch_id = self.database.launchpad.checkout_fw(fworker, str(Path.cwd()))
            except RuntimeError as error:
                # FireWorks could not bring the job's workflow up to date, and has marked the job as fizzled.
                self.jobs_failed.append(str(error).strip().splitlines()[-1])
                continue
            if firework is None:
                break
            if idle:
                member = idle.pop()
            else:
                member = _start()
                pool.append(member)
            member.firework, member.launch_id = firework, launch_id
            handed = True
            try:
                member.connection.send(firework.to_dict())
            except OSError:
                self._bury(member)
                pool.remove(member)
        return handed

    def _listen(self, member: ComputeProcess) -> bool:
        """Answer a compute process: do its database request, or take its result; false when it hung up."""
        try:
            kind, content = member.connection.recv()
        except (EOFError, OSError):
            return False
        if kind == "done":
            self._complete(member, content)
        elif kind == "failed":
            self._fizzle(member, *content)
        else:
            store = self.database.job_store.docs_store
            try:
                answer = getattr(store, kind)(**content)
                reply = ("answer", list(answer) if kind == "query" else answer)
            except Exception as error:  # noqa: BLE001  the worker gets the text; the launcher must go on
                reply = ("error", f"{type(error).__name__}: {error}")
            try:
                member.connection.send(reply)
            except OSError:
                return False
        return True

    def _complete(self, member: ComputeProcess, content: dict[str, Any]) -> None:
        from fireworks import FWAction

        action = FWAction.from_dict(content)
        campaign = member.firework.spec["campaign"]
        with self.database.transaction():
            action.additions = [workflow for workflow in action.additions if not self._exists(workflow)]
            self.database.launchpad.complete_launch(member.launch_id, action, "COMPLETED")
            ledger = Ledger(self.database, campaign)
            ledger.sync()
        self.jobs_done += 1
        member.firework = member.launch_id = None
        if ledger.is_idle():
            advance(self.database, campaign)

    def _exists(self, workflow: Any) -> bool:
        """Whether the launchpad has the jobs already: a job that ran twice must not add its children twice."""
        uuids = [firework.spec["job_uuid"] for firework in workflow.fws]
        launchpad = self.database.launchpad
        found = [job["fw_id"] for job in launchpad.fireworks.find({"spec.job_uuid": {"$in": uuids}}, {"fw_id": 1})]
        # A job that no workflow holds is what a kill left; it will never run and must not stand in the way.
        return bool(found) and launchpad.workflows.find_one({"nodes": {"$in": found}}, {"_id": 1}) is not None

    def _fizzle(self, member: ComputeProcess, message: str, stack: str) -> None:
        from fireworks import FWAction

        action = FWAction(
            stored_data={"_message": message, "_exception": {"_stacktrace": stack, "_details": None}}, exit=True
        )
        with self.database.transaction():
            self.database.launchpad.complete_launch(member.launch_id, action, "FIZZLED")
        self.jobs_failed.append(f"{member.firework.name}: {message}")
        member.firework = member.launch_id = None

    def _bury(self, member: ComputeProcess) -> None:
        """A compute process died: note on which candidate, and put its job back."""
        member.process.kill()
        member.process.join()
        if not member.busy:
            return
        spec = member.firework.spec
        folder = funnel_of(Ledger(self.database, spec["campaign"])).diary_folder
        diary = JobProgress(diary_path(Path(folder), spec["job_uuid"]))
        victim = diary.begun() or spec["material_ids"][0]
        diary.died(victim)
        with self.database.transaction():
            self._fizzle(member, f"the worker process died on {victim}", "")
            self.jobs_failed.pop()
            fw_id = self.database.launchpad.fireworks.find_one({"spec.job_uuid": spec["job_uuid"]})["fw_id"]
            self.database.launchpad.rerun_fw(fw_id)


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        problem = "no permission to write"
    except OSError as error:
        writable, problem = False, error.strerror or str(error)
    if not writable:
        raise HopflowError(
            f"The campaign keeps its checkpoints in {folder}, which cannot be written here ({problem}); make it "
            "writable, or launch the campaign from a folder that every worker shares."
        )


def _start() -> ComputeProcess:
    """Start a compute process; each has one core to itself."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    saved = {name: os.environ.get(name) for name in threads}
    os.environ.update({name: value for name, value in threads.items() if saved[name] is None})
    try:
        process = context.Process(target=work, args=(theirs, os.getpid()), daemon=True)
        process.start()
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
    theirs.close()
    return ComputeProcess(process, ours)


def _stop(member: ComputeProcess) -> None:
    if member.busy:
        member.process.terminate()
    else:
        try:
            member.connection.send(None)
        except (BrokenPipeError, OSError):
            member.process.terminate()
    member.process.join(timeout=10)
    if member.process.is_alive():
        member.process.kill()
